"""What each request waits for, and what would become of one: the planner's view in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from provisioner.capacity.explain import ENDED, Explanation, Verdict, explain
from provisioner.capacity.plant import Plant, Tally, Wanted
from provisioner.capacity.room import Hurdle, Room, room_for
from provisioner.config import Settings
from provisioner.lifecycle.adoption import strangers
from provisioner.lifecycle.lanes import queue_order
from provisioner.lifecycle.operations import Refused, Unknown
from provisioner.model.agent import Agent, AgentState, Target
from provisioner.model.errors import Reason
from provisioner.model.queue import QueueItem
from provisioner.model.request import Request, RequestState
from provisioner.routing.match import Router, Routing
from provisioner.routing.overrides import Refused as NotGranted
from provisioner.routing.overrides import override

if TYPE_CHECKING:
    from provisioner.lifecycle.engine import Engine


#: Among so many of the latest agents that are gone that of an item is looked for.
_GONE_SEARCHED = 1000
_STOPPING = Hurdle(reason="the provisioner is stopping", until="the provisioner runs again")


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A request, and what keeps it where it is."""

    request: Request
    reasons: tuple[str, ...]  # a sentence each; none where an agent is coming
    next_step: str  # what is expected to happen

    @property
    def text(self) -> str:
        """Both, as the build's own log and the API have it."""
        return f"{'; '.join(self.reasons)}. Next: {self.next_step}"


class Outlook:
    """Answers from one engine's present state; asks nobody outside."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._desk = engine.desk
        self._routed: tuple[Settings, Router] | None = None

    def plant(self) -> Plant:
        """What may be used now."""
        return self._engine.planner.plant()

    def tally(self) -> Tally:
        """The agents that hold a slot now."""
        return Tally.of([*(task.agent for task in self._desk.agents.values()), *strangers(self._desk)])

    def waiting(self, limit: int | None = None) -> list[Waiting]:
        """The requests in the order of the queue, each with what it waits for."""
        requests = sorted(self._desk.book, key=lambda r: queue_order(r.item))
        return list(self.reasons(requests[:limit]))

    def reasons(self, requests: Iterable[Request]) -> Iterator[Waiting]:
        """Each request with what it waits for; lazily, so that whoever has seen enough may stop."""
        plant, tally = self.plant(), self.tally()
        rooms: dict[tuple[Wanted, tuple[str, ...]], Room] = {}
        for request in requests:
            if request.state is RequestState.SERVED:
                yield Waiting(request=request, reasons=(), next_step=self._start_of(request))
                continue
            if ends := _ends(request):
                yield Waiting(request=request, reasons=(ends,), next_step=ENDED)
                continue
            wanted = replace(self._desk.book.wanted(request), unfit=self._engine.planner.unfit(request))
            asked = (wanted, request.failed_at)
            room = rooms.get(asked) or rooms.setdefault(asked, room_for(wanted, plant, tally, request.failed_at))
            pauses = tuple(self._pauses(request.item.key.controller, request))
            reasons = (*(pause.reason for pause in pauses), *room.reasons)
            yield Waiting(
                request=request,
                reasons=reasons or ("nothing: it is placed at the next pass",),
                next_step=_then(pauses) or room.next_step,
            )

    def explain_item(self, queue_id: int, controller: str | None = None) -> Explanation:
        """Why an item of the queue gets an agent, waits or gets none.

        Raises:
            Unknown: no buildable item has that id.
            Refused: several controllers have an item of that id.
        """
        found = [item for item in self._items() if item.key.queue_id == queue_id]
        if controller is not None:
            found = [item for item in found if item.key.controller == controller]
        if not found and (begun := self._begun(queue_id, controller)) is not None:
            return begun
        if not found:
            raise Unknown(self._left(queue_id, controller))
        if len(found) > 1:
            names = ", ".join(sorted(item.key.controller for item in found))
            raise Refused(f"item {queue_id} is in the queues of {names}; name one with `controller`")
        item = found[0]
        request = self._desk.book.get(item.key)
        pauses = tuple(self._pauses(item.key.controller, request))
        label = f", label {item.label}" if item.label else ", no label"
        explained = explain(
            f"queue item {queue_id} of {item.job} at {item.key.controller}{label}",
            self._router().match(item),
            plant=self.plant(),
            tally=self.tally(),
            controller=item.key.controller,
            agent=request.agent if request else None,
            also=tuple(pause.reason for pause in pauses),
            then=_then(pauses),
            ends=_ends(request),
            failed_at=request.failed_at if request else (),
            ready=self._ready(item.key.controller),
            unfit=self._engine.planner.unfit(request) if request else frozenset(),
        )
        served = request is not None and request.state is RequestState.SERVED
        return replace(explained, next_step=self._start_of(request)) if request and served else explained

    def _start_of(self, request: Request) -> str:
        """When the build of a request starts that an agent serves."""
        task = self._desk.agents.get(request.agent or "")
        if task is None or task.agent.state is not AgentState.IDLE or not task.facts.online:
            return f"its build starts as soon as agent {request.agent} is connected"
        says = f"; Jenkins says: {request.item.why}" if request.item.why else ""
        return f"agent {request.agent} is connected: its build starts as soon as Jenkins lets it{says}"

    def _begun(self, queue_id: int, controller: str | None) -> Explanation | None:
        """An item that left the queue for an agent that is still there; the latest one of that id."""
        served = [
            task.agent
            for task in self._desk.agents.values()
            if task.agent.request is not None
            and task.agent.request.queue_id == queue_id
            and controller in (None, task.agent.controller)
        ]
        if not served:
            return None
        agent = max(served, key=lambda one: one.created_at)
        return Explanation(
            subject=f"queue item {queue_id} at {agent.controller}, no longer in the queue",
            verdict=Verdict.YES,
            template=agent.template,
            provider=agent.provider,
            agent=agent.name,
            reasons=(),
            answers=(),
            next_step=_goes(agent),
        )

    def _left(self, queue_id: int, controller: str | None) -> str:
        """What became of an item that is not there, where a record tells; ids come again, so of the latest one."""
        told = [
            (agent.request, _was(agent))
            for agent in reversed(self._desk.store.gone_agents(_GONE_SEARCHED))
            if agent.request is not None
        ]
        # after the agents: what was ended was ended for the last of them
        told += [(request.item.key, _was_ended(request)) for request in self._desk.ended]
        of_it = [(k, text) for k, text in told if k.queue_id == queue_id and controller in (None, k.controller)]
        if of_it:
            latest = max(key.since_ms for key, _ in of_it)
            key, text = [one for one in of_it if one[0].since_ms == latest][-1]
            return f"item {queue_id} is no longer in the queue of {key.controller}: {text}"
        where = controller or ", ".join(sorted(self._desk.controllers))
        return (
            f"no buildable item {queue_id} is in the queue of {where}, and nothing is on record of it: it may have "
            "started elsewhere, been cancelled, or still be blocked"
        )

    def explain_label(self, label: str, job: str | None = None, controller: str | None = None) -> Explanation:
        """What an item that asks for this label expression would get; a job or controller narrows it."""
        if controller is None and len(self._desk.controllers) == 1:
            (controller,) = self._desk.controllers
        pauses = tuple(self._pauses(controller, None))
        routing = self._router().match_label(label, job=job, controller=controller)
        return explain(
            f"label {label}",
            routing,
            plant=self.plant(),
            tally=self.tally(),
            controller=controller or "",
            also=tuple(pause.reason for pause in pauses),
            then=_then(pauses),
            ends=self._refused(routing),
            ready=self._ready(controller),
            unfit=self._engine.planner.unfit_for(routing.winner, {}) if routing.winner else frozenset(),
        )

    def _refused(self, routing: Routing) -> str:
        """Why a build that asks for no more than its label would be ended; empty: it would not."""
        winner = routing.winner
        template = next((t for t in self._desk.settings.templates if winner and t.name == winner.template), None)
        if winner is None or template is None:
            return ""
        answer = override(template, {}, winner.bindings)
        return f"{answer.message} ({Reason.OVERRIDE_REFUSED})" if isinstance(answer, NotGranted) else ""

    def _ready(self, controller: str | None) -> dict[str, str]:
        """By template, where an agent on standby could be given to a build now."""
        ready = (task.agent for task in reversed(self._engine.planner.standby.ready()))
        return {agent.template: agent.provider for agent in ready if controller in (None, agent.controller)}

    def _items(self) -> Iterator[QueueItem]:
        for request in self._desk.book:
            yield request.item
        yield from self._desk.book.unserved.values()

    def _pauses(self, of: str | None, request: Request | None) -> Iterator[Hurdle]:
        """What keeps an item of a controller waiting besides capacity."""
        controller = self._desk.controllers.get(of or "")
        if self._engine.planner.stopped:
            yield _STOPPING
        if controller is not None and not controller.up:
            yield Hurdle(
                reason=f"controller {controller.name} does not answer: {controller.problem}",
                until=f"{controller.name} answers",
            )
        elif controller is not None and not controller.seen and controller.unseen:
            yield Hurdle(
                reason=f"controller {controller.name} does not show all that is ours there: {controller.unseen}",
                until=f"{controller.name} shows it",
            )
        elif controller is not None and not controller.seen:
            yield Hurdle(
                reason=f"controller {controller.name} has not shown its whole queue yet",
                until=f"{controller.name} has shown it",
            )
        elif controller is not None and controller.quieting_down:
            yield Hurdle(
                reason=f"controller {controller.name} is about to shut down and starts no builds",
                until=f"{controller.name} starts builds again, after its restart or a cancelled shutdown",
            )
        if request is not None and request.not_before is not None and request.not_before > self._desk.clock.now():
            left_s = (request.not_before - self._desk.clock.now()).total_seconds()
            seconds = f"{max(1.0, left_s):.0f} s"
            if request.reason is None:
                head = "another node or a cloud could serve it and has a head start"
                yield Hurdle(reason=f"{head}; an agent is started in {seconds}", until=f"{seconds} have passed")
            else:
                last = f"its last launch failed ({request.detail}); it is tried again in {seconds}"
                yield Hurdle(reason=last, until=f"{seconds} have passed")

    def _router(self) -> Router:
        settings = self._desk.settings
        if self._routed is None or self._routed[0] is not settings:
            self._routed = (settings, Router(settings.templates))
        return self._routed[1]


def _goes(agent: Agent) -> str:
    """What is expected of an agent whose item left the queue."""
    if agent.target is Target.GONE or agent.state is AgentState.REMOVING:
        return f"the agent is being removed{f': {agent.detail}' if agent.detail else ''}"
    return "the agent goes when the build on it ends"


def _was(agent: Agent) -> str:
    """What an agent that is gone was for its item."""
    if AgentState.RUNNING in agent.marks:
        url = f" ({agent.build_url})" if agent.build_url else ""
        return f"its build{url} ran on agent {agent.name}, which is gone"
    why = f": {agent.detail}" if agent.detail else ""
    return f"agent {agent.name}, which was made for it, is gone{why}"


def _was_ended(request: Request) -> str:
    return f"its build was ended by the provisioner: {request.detail} ({request.reason or Reason.INTERNAL_ERROR})"


def _ends(request: Request | None) -> str:
    """Why a build is being ended; empty: it is not."""
    if request is None or request.state is not RequestState.FAILING:
        return ""
    reason = f" ({request.reason.value})" if request.reason else ""
    return f"it cannot be served: {request.detail}{reason}"


def _then(pauses: Sequence[Hurdle]) -> str:
    """What is expected to happen, where more than room keeps an item waiting."""
    if not pauses:
        return ""
    return f"an agent is started as soon as {' and '.join(pause.until for pause in pauses)}, if there is room then"
