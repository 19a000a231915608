"""From waiting requests to planned agents: routing and capacity decide, the planner writes it down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from provisioner.capacity.placement import Asked, Place, Wait, counted_passes, counted_turns, place
from provisioner.capacity.plant import (
    Bounded,
    Condition,
    CountedAgent,
    Plant,
    ProviderCaps,
    ProviderState,
    Tally,
)
from provisioner.lifecycle.adoption import strangers
from provisioner.lifecycle.failing import Failing
from provisioner.lifecycle.standby import Standby
from provisioner.model.agent import Agent, AgentState, Target, new_agent_name
from provisioner.model.errors import ControllerError, ProvisionerError, Reason
from provisioner.model.request import Request, RequestState
from provisioner.routing.match import Match, Router
from provisioner.routing.overrides import Granted, override

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import Desk

log = structlog.get_logger()

#: Even if nothing happens, look again: a pause of a request or of a provider may be over.
_LOOK_EVERY_S = 5.0
#: The longest that a request waits for a look at static nodes.
_LOOK_FIRST_S = 30.0


class Planner:
    """One loop over all controllers, so that no cap is exceeded at any instant."""

    def __init__(self, desk: Desk, launch: Callable[[Agent], None], failing: Failing) -> None:
        self._desk = desk
        self._launch = launch
        self._failing = failing
        self.standby = Standby(desk, launch)
        failing.on_standby_failed = self.standby.failed
        self._turns: dict[str, int] = {}  # whose turn it was, so that templates that are equally full take turns
        self._passed: dict[str, int] = {}  # who waited while others got agents
        self.stopped = False  # when draining: nothing new is placed
        self.reconfigure()

    def reconfigure(self) -> None:
        """Take the desk's settings: templates, limits, routes."""
        settings = self._desk.settings
        self._templates = {template.name: template for template in settings.templates}
        self._router = Router(settings.templates)
        self._static = {name for name, handle in self._desk.providers.items() if handle.room is not None}
        #: templates whose builds are looked at before there is room for them
        self._choosy = {t.name for t in settings.templates if t.head_start_s or any(rule for _, rule in t.overrides)}
        self._desk.breakers.reconfigure(self._desk.versions())
        self.standby.active = True

    async def run(self) -> None:
        """Plan for ever, whenever there is a reason to."""
        while True:
            self._desk.tick("planner")
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._desk.plan_again.wait()
            except TimeoutError:
                pass
            self._desk.plan_again.clear()
            if not self.stopped:
                self.plan()

    def plan(self) -> None:
        """One pass: every request that can get an agent now gets one."""
        for request in self._desk.book.take_unchecked():
            static = self._static.intersection(self._templates[request.template].providers) if self._static else ()
            if static:
                self._look_first(request, static)
            else:
                self._check(request)
        self._failing.take_up()
        self.standby.take_up()
        desk, plant = self._desk, self.plant()
        # no more than that can be placed, whatever waits: ten thousand items cost no more than ten
        limits, tally = desk.settings.limits, Tally.of(self._counted())
        free = max(0, min(limits.agents - tally.agents, limits.launching - tally.launching))
        open_to = {name for name in desk.controllers if self._answers(name)}
        heads = desk.book.waiting(free + len(self.standby.agents()), open_to)
        heads = [r for r in heads if not self._give(r)]
        asked = [
            Asked(key=r.item.key, routing=self._router.match(r.item), failed_at=r.failed_at, unfit=self.unfit(r))
            for r in heads
        ]
        requests = {r.item.key: r for r in heads}
        decisions = place(asked, plant=plant, agents=self._counted(), last_turns=self._turns, passed=self._passed)
        self._turns = counted_turns(self._turns, decisions)
        self._passed = counted_passes(self._passed, decisions)
        for decision in decisions:
            if isinstance(decision, Place):
                self._begin(requests[decision.key], decision)
        waits = [decision for decision in decisions if isinstance(decision, Wait)]
        if self.standby.active:
            self.standby.make_room(waits, plant, self._counted())
            self.standby.keep(waits, self._startable(plant), Tally.of(self._counted()))

    def _counted(self) -> list[CountedAgent]:
        return [*(task.agent for task in self._desk.agents.values()), *strangers(self._desk)]

    def _give(self, request: Request) -> bool:
        """Give it an agent that is connected already, if there is one."""
        template = self._templates.get(request.template)
        if template is None or not template.ever_stands_by:
            return False
        match, granted = self._desk.book.match(request), self._granted(request)
        return match is not None and granted is not None and self.standby.give(request, match, granted.spec)

    def plant(self) -> Plant:
        """What may be used now."""
        desk = self._desk
        return Plant(
            templates=self._templates,
            providers={provider.name: self._bounded(provider) for provider in desk.settings.providers},
            limits=desk.settings.limits,
            controllers={controller.name: controller.max_agents for controller in desk.settings.controllers},
            conditions={name: self._condition(name) for name in desk.providers},
            pair_conditions=desk.breakers.conditions(),
        )

    def _bounded(self, provider: ProviderCaps) -> ProviderCaps:
        """A provider with the room that it really has."""
        room = self._desk.providers[provider.name].room
        if room is None:
            return self._desk.refusals.bounded(provider)
        # an agent that has no node yet will have one of the free ones
        seated = sum(1 for task in self._desk.agents.values() if self._has_node(task, provider.name))
        return Bounded(name=provider.name, max_agents=min(provider.max_agents or 0, seated + room().free))

    @staticmethod
    def _has_node(task: AgentTask, provider: str) -> bool:
        unseated = (AgentState.PLANNED, AgentState.REGISTERING)
        return task.agent.provider == provider and task.agent.state not in unseated

    def _startable(self, plant: Plant) -> Plant:
        """The same without static nodes: a clean one waits by itself, for no template in particular."""
        closed = Condition(state=ProviderState.OCCUPIED, reason="its nodes are not kept on standby")
        static = {name: closed for name, handle in self._desk.providers.items() if handle.room is not None}
        return replace(plant, conditions={**plant.conditions, **static}) if static else plant

    def unfit(self, request: Request) -> frozenset[str]:
        """Providers that cannot give what the request asks for; a static node is what it is."""
        match = self._desk.book.match(request)
        return self.unfit_for(match, request.item.parameters) if match is not None else frozenset()

    def unfit_for(self, match: Match, parameters: Mapping[str, str]) -> frozenset[str]:
        """The same for a build that is not in any queue."""
        template = self._templates.get(match.template)
        if template is None or not (static := self._static.intersection(template.providers)):
            return frozenset()
        granted = override(template, parameters, match.bindings)
        return frozenset(static) if isinstance(granted, Granted) and granted.lines else frozenset()

    def _condition(self, name: str) -> Condition:
        provider = self._desk.providers[name]
        if provider.drained:
            return Condition(state=ProviderState.DRAINING, reason="`provisioner drain`")
        if not provider.up:
            return Condition(state=ProviderState.UNREACHABLE, reason=provider.problem)
        if provider.room is not None and (room := provider.room()).free == 0:
            return Condition(state=ProviderState.OCCUPIED, reason=room.reason)
        return Condition()

    def _answers(self, name: str) -> bool:
        """Whether a controller is there to register a node, and lets builds start."""
        controller = self._desk.controllers[name]
        return controller.up and controller.seen and not controller.quieting_down

    def _granted(self, request: Request) -> Granted | None:
        """What its agent is made from; None if what it asks for is refused, or its template is no longer there."""
        match, template = self._desk.book.match(request), self._templates.get(request.template)
        if match is None or template is None:
            return None
        answer = override(template, request.item.parameters, match.bindings)
        if isinstance(answer, Granted):
            return answer
        log.warning("request.refused", request=str(request.item.key), problem=answer.message)
        self._desk.metrics.error(Reason.OVERRIDE_REFUSED)
        self._desk.book.refuse(request, Reason.OVERRIDE_REFUSED, answer.message)
        self._desk.plan_again.set()  # for its end, and for the room that it leaves to others
        return None

    def _check(self, request: Request) -> None:
        """Look at what a new request asks for, before there is room for it."""
        if request.template in self._choosy and self._granted(request) is not None:
            self._head_start(request)

    def _look_first(self, request: Request, providers: Iterable[str]) -> None:
        """Nothing is started for it on the word of an old look: a static node may be clean by now."""
        self._desk.book.pause(request, self._desk.clock.now() + timedelta(seconds=_LOOK_FIRST_S))
        self._desk.errand(self._have_looked(request, providers), name=f"look {request.item.key}")

    async def _have_looked(self, request: Request, providers: Iterable[str]) -> None:
        try:
            for name in providers:
                if (look := self._desk.providers[name].look) is not None:
                    await look()
        except ProvisionerError as error:
            log.info("static.unknown", problem=error.message)  # by the last look, then
        finally:
            self._desk.book.pause(request, request.not_before)  # after a launch that failed it waits as before
            self._desk.plan_again.set()
        current = self._desk.book.get(request.item.key)
        if current is not None and current.state is RequestState.WAITING:
            self._check(current)

    def _head_start(self, request: Request) -> None:
        """Let others that could serve it go first for a while, where the template says so."""
        head_start_s = self._templates[request.template].head_start_s
        until = request.first_seen + timedelta(seconds=head_start_s)
        if head_start_s > 0 and until > self._desk.clock.now() and request.not_before is None:
            self._desk.book.pause(request, until)
            self._desk.errand(self._ask_others(request), name=f"others {request.item.key}")

    async def _ask_others(self, request: Request) -> None:
        port = self._desk.controllers[request.item.key.controller].port
        try:
            others = await port.others(request.item)
        except ControllerError as error:
            log.info("others.unknown", request=str(request.item.key), problem=error.message)
            others = False
        if not others:
            self._desk.book.pause(request, None)
            self._desk.plan_again.set()

    def _begin(self, request: Request, decision: Place) -> None:
        match, granted = self._desk.book.match(request), self._granted(request)
        if match is None or granted is None:
            return
        now = self._desk.clock.now()
        agent = Agent(
            name=new_agent_name(decision.template),
            owner=self._desk.settings.id,
            controller=request.item.key.controller,
            template=decision.template,
            provider=decision.provider,
            request=request.item.key,
            kind=request.item.kind,
            labels=match.labels,
            state=AgentState.PLANNED,
            target=Target.SERVE,
            created_at=now,
            attempt=request.attempts + 1,
            spec=granted.spec,
            marks={AgentState.PLANNED.value: now},
        )
        self._launch(agent)  # written down first: if that fails, the request still waits
        self._desk.book.served(request, agent.name)
        log.info("agent.planned", agent=agent.name, request=str(request.item.key), provider=agent.provider)
        self._desk.agents[agent.name].log.say(*granted.lines)

    def _pause_s(self) -> float:
        wake = self._desk.book.next_wake()
        if wake is None:
            return _LOOK_EVERY_S
        return min(_LOOK_EVERY_S, max(0.05, (wake - self._desk.clock.now()).total_seconds()))
