"""Standby: agents that are connected before a build asks for them, dedicated to nobody, given to one build each.

Each pass of the planner gives, makes room, retires and refills, in this order. A standby agent holds its slot
like any other and yields it: where a request has no room, an idle one goes. Without the bridge there is none,
since a node without an item of its own could take any.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from provisioner.capacity.placement import Wait
from provisioner.capacity.plant import CountedAgent, Plant, Tally, Wanted
from provisioner.capacity.room import room_for
from provisioner.config import Template
from provisioner.config.values import place_holders
from provisioner.controller.port import BridgeMode
from provisioner.model.agent import Agent, AgentState, Target, new_agent_name
from provisioner.model.errors import ControllerError
from provisioner.model.request import Request
from provisioner.routing.match import Match

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import ControllerHandle, Desk

log = structlog.get_logger()

#: Stands among an agent's marks: when it was given to a build. Written before the controller is told.
GIVEN_MARK = "given"
#: Nobody waits longer than this for a build; a new one takes its place. Most go somewhat earlier, each at a time of
#: its own, so that those that came together do not go together.
_MOST_AGE_S = 3600.0
_AGE_SPREAD = 0.4
#: Of one template, launches ahead of any build at the same time: many would slow down each other and the builds.
_REFILL_AT_ONCE = 2
#: Of `limits.launching`, the part that launches ahead of builds may take up.
_REFILL_SHARE = 4
_AGAIN_FIRST_S = 0.5
_AGAIN_MOST_S = 10.0
#: Launches of standby agents that fail are not repeated at once: no build waits for them.
_PAUSE_FIRST_S = 5.0
_PAUSE_MOST_S = 1800.0
_MAY_WAIT = frozenset(
    {AgentState.PLANNED, AgentState.REGISTERING, AgentState.STARTING, AgentState.CONNECTING, AgentState.IDLE}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pause:
    failures: int
    until_s: float  # monotonic


class Standby:
    """The standby agents of one sidecar."""

    def __init__(self, desk: Desk, launch: Callable[[Agent], None]) -> None:
        self._desk = desk
        self._launch = launch
        self._pauses: dict[str, _Pause] = {}
        self._told: set[str] = set()  # agents whose dedication the controller knows, or is being told
        self._warned: set[tuple[str, str]] = set()
        #: whether there is anything to do: standby is asked for, or something is left of it
        self.active = True

    def agents(self) -> list[AgentTask]:
        """Those that were given to no build, oldest first."""
        every = self._desk.agents.values() if self.active else ()
        found = (task for task in every if task.agent.request is None)
        waiting = [task for task in found if task.agent.state in _MAY_WAIT and not task.doomed]
        return sorted(waiting, key=lambda task: (task.agent.created_at, task.agent.name))

    def ready(self) -> list[AgentTask]:
        """Those that a build could have now."""
        return [task for task in self.agents() if self._ready(task)]

    def _ready(self, task: AgentTask) -> bool:
        facts = task.facts
        return (
            task.agent.state is AgentState.IDLE
            and facts.online
            and not (facts.ended or facts.vanished)
            and self._usable(self._desk.controllers[task.agent.controller])
        )

    # -- giving

    def give(self, request: Request, match: Match, spec: object) -> bool:
        """Give the request a connected agent that is just what it would get; whether there was one."""
        fitting = (
            task
            for task in self.ready()
            if task.agent.template == request.template
            and task.agent.controller == request.item.key.controller
            and set(match.labels) <= set(task.agent.labels)
            and task.agent.spec == spec
        )
        task = next(fitting, None)
        if task is None:
            return False
        now = self._desk.clock.now()
        waited_s = (now - task.agent.marks[AgentState.IDLE.value]).total_seconds()
        asked_s = (now - request.first_seen).total_seconds()
        task.log.say(
            f"The agent {task.agent.name} was connected and waited for {waited_s:.0f} s; it is given to this build, "
            f"which waited {asked_s:.1f} s for its turn"
        )
        # one write: a mark without its request would look like a build that is about to start, for nobody
        self._desk.rekey(task, request.item.key, request.item.kind, mark=GIVEN_MARK)
        self._desk.book.served(request, task.agent.name)
        log.info("standby.given", agent=task.agent.name, request=str(request.item.key))
        self._tell(task)
        return True

    def take_up(self) -> None:
        """Tell the controller again what an earlier process decided and may not have told."""
        if not self.active:
            return
        self._told &= self._desk.agents.keys()
        given = [task for task in self._desk.agents.values() if GIVEN_MARK in task.agent.marks]
        for task in given:
            if task.agent.state is AgentState.IDLE and not task.facts.started:
                self._tell(task)
        self.active = bool(given or self.agents() or any(t.ever_stands_by for t in self._desk.settings.templates))

    def _tell(self, task: AgentTask) -> None:
        request = self._desk.book.get(task.agent.request)
        if request is not None and task.agent.name not in self._told:
            self._told.add(task.agent.name)
            self._desk.errand(self._tell_now(task, request), name=f"give {task.agent.name}")

    async def _tell_now(self, task: AgentTask, request: Request) -> None:
        port = self._desk.controllers[task.agent.controller].port
        pause_s = _AGAIN_FIRST_S
        while not (task.doomed or task.facts.started or self._desk.book.get(request.item.key) is None):
            lines = task.log.take()
            # one after the other in one request: the lines are there before the build can start
            told, given = await asyncio.gather(
                port.tell(task.agent.name, None, lines),
                port.give(task.agent.name, request.item),
                return_exceptions=True,
            )
            if told is not None:
                task.log.give_back(lines)
            if given is None:
                return
            if not isinstance(given, ControllerError):
                raise given
            log.warning("standby.not_given", agent=task.agent.name, problem=given.message)
            if not given.retryable:
                # it was not dedicated, and cannot be: the request gets a new agent
                if self._desk.book.released(task.agent):
                    self._desk.plan_again.set()
                task.want_gone(None, f"it could not be given to a build: {given.message}")
                return
            await self._desk.clock.sleep(pause_s)
            pause_s = min(_AGAIN_MOST_S, pause_s * 2)

    # -- room

    def make_room(self, waits: Iterable[Wait], plant: Plant, agents: Iterable[CountedAgent]) -> None:
        """Let idle ones go whose slot a waiting request needs; slots that are coming back anyway count first."""
        idle = [task for task in self.agents() if task.agent.state is AgentState.IDLE]
        if not idle:
            return
        leaving = {name for name, task in self._desk.agents.items() if task.doomed}
        stay = [a for a in agents if a.state is not AgentState.REMOVING and getattr(a, "name", "") not in leaving]
        tally = Tally.of(stay)
        for wait in waits:
            provider = room_for(wait.wanted, plant, tally).provider
            if provider is None:
                provider = self._yield_one(idle, wait.wanted, plant, tally)
            if provider is not None:
                tally.add(wait.wanted, provider, launching=True)
            if not idle:
                return

    def _yield_one(self, idle: list[AgentTask], wanted: Wanted, plant: Plant, tally: Tally) -> str | None:
        for task in idle:
            tally.drop(task.agent)
            provider = room_for(wanted, plant, tally).provider
            if provider is not None:
                idle.remove(task)
                self._retire(task, f"a build of template {wanted.template} needs its room")
                return provider
            tally.put_back(task.agent)
        return None

    # -- retiring and refilling

    def keep(self, waits: Sequence[Wait], plant: Plant, tally: Tally) -> None:
        """Retire what nobody wants any more, and start what is missing where no build waits for the same room.

        Neither happens to many at once: a few are started at a time, and one that is too old goes only when none
        of its kind is on its way.
        """
        now = self._desk.clock.now()
        templates = self._desk.settings.templates
        wanted = {t.name: (t, number) for t in templates if (number := t.standby_at(now))}
        by_place: dict[tuple[str, str], list[AgentTask]] = {}
        for task in self.agents():
            unwanted = self._unwanted(task, wanted.get(task.agent.template, (None, 0))[0])
            if unwanted:
                self._retire(task, unwanted)
            else:
                by_place.setdefault((task.agent.template, task.agent.controller), []).append(task)
        starting = any(
            task.agent.request is not None and GIVEN_MARK in task.agent.marks and task.agent.state is AgentState.IDLE
            for task in self._desk.agents.values()
        )
        lacking = (plant.templates.get(wait.template) for wait in waits)
        sought = {name for template in lacking if template is not None for name in template.providers}
        for template, number in wanted.values():
            for controller in self._desk.controllers.values():
                if not template.serves(controller.name):
                    continue
                here = by_place.get((template.name, controller.name), [])
                if any(task.agent.state is AgentState.IDLE for task in here):
                    self._pauses.pop(template.name, None)
                here.sort(key=lambda task: task.agent.state is not AgentState.IDLE)  # those that wait stay
                for task in here[number:]:
                    self._retire(task, "there are more than `standby` says")
                here = here[:number]
                coming = [task for task in here if task.agent.state is not AgentState.IDLE]
                old = next((task for task in here if task.lived_s > self._most_age_s(task, template)), None)
                if old is not None and not coming:
                    self._retire(old, "it has waited for long enough; a new one takes its place")
                    here.remove(old)
                # a build that was just given its agent starts now; the next one is not to slow it down
                if not starting and sought.isdisjoint(template.providers) and self._may_start(template, controller):
                    missing = min(number - len(here), _REFILL_AT_ONCE - len(coming))
                    self._refill(template, controller, missing, plant, tally)

    @staticmethod
    def _most_age_s(task: AgentTask, template: Template) -> float:
        """How long it may wait; names are random, and so is this."""
        most_s = min(_MOST_AGE_S, template.timeouts.lifetime_s or _MOST_AGE_S)
        part = int.from_bytes(hashlib.sha256(task.agent.name.encode()).digest()[:2]) / 0xFFFF
        return most_s * (1 - _AGE_SPREAD * part)

    def _unwanted(self, task: AgentTask, template: Template | None) -> str:
        if template is None or not template.serves(task.agent.controller):
            return "the configuration no longer asks for it"
        if task.agent.spec != template.spec():
            return "its template has changed"
        return ""

    def _may_start(self, template: Template, controller: ControllerHandle) -> bool:
        pause = self._pauses.get(template.name)
        if pause is not None and self._desk.clock.monotonic() < pause.until_s:
            return False
        if controller.up and not self._bridged(controller) and (template.name, controller.name) not in self._warned:
            self._warned.add((template.name, controller.name))
            log.warning(
                "standby.left_out",
                template=template.name,
                controller=controller.name,
                problem="the controller is spoken to without the bridge, and a free node could take any build",
            )
        return self._usable(controller)

    def _usable(self, controller: ControllerHandle) -> bool:
        return controller.up and controller.seen and not controller.quieting_down and self._bridged(controller)

    @staticmethod
    def _bridged(controller: ControllerHandle) -> bool:
        info = controller.port.info
        return info is not None and info.mode is not BridgeMode.OFF

    def _refill(
        self, template: Template, controller: ControllerHandle, missing: int, plant: Plant, tally: Tally
    ) -> None:
        labels = tuple(label for label in template.labels if not place_holders(label))
        wanted = Wanted(template=template.name, controller=controller.name, labels=labels)
        for _ in range(missing if labels else 0):
            if self._launching() >= max(1, self._desk.settings.limits.launching // _REFILL_SHARE):
                return
            provider = room_for(wanted, plant, tally).provider
            if provider is None:
                return
            now = self._desk.clock.now()
            agent = Agent(
                name=new_agent_name(template.name),
                owner=self._desk.settings.id,
                controller=controller.name,
                template=template.name,
                provider=provider,
                request=None,
                labels=labels,
                state=AgentState.PLANNED,
                target=Target.SERVE,
                created_at=now,
                spec=template.spec(),
                marks={AgentState.PLANNED.value: now},
            )
            tally.add(wanted, provider, launching=True)
            log.info("standby.planned", agent=agent.name, provider=provider)
            self._launch(agent)

    def _launching(self) -> int:
        """Agents on their way for nobody."""
        return sum(task.agent.state is not AgentState.IDLE for task in self.agents())

    def failed(self, agent: Agent) -> None:
        """A launch failed that no build waits for: the next one comes later each time, until one works."""
        failures = self._pauses[agent.template].failures + 1 if agent.template in self._pauses else 1
        pause_s = min(_PAUSE_MOST_S, _PAUSE_FIRST_S * 2 ** min(failures - 1, 10))
        until_s = self._desk.clock.monotonic() + pause_s
        self._pauses[agent.template] = _Pause(failures=failures, until_s=until_s)

    def retire_all(self) -> list[str]:
        """Let all of them go, for the sidecar stops; their names."""
        tasks = self.agents()
        for task in tasks:
            self._retire(task, "the provisioner stops")
        return [task.agent.name for task in tasks]

    def _retire(self, task: AgentTask, why: str) -> None:
        log.info("standby.retired", agent=task.agent.name, why=why)
        task.log.say(f"It is removed: {why}")
        task.want_gone(None, why)
