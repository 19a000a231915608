"""The requests: what waits in the queues, who is coming for it, and what became of it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from provisioner.capacity.placement import wanted_by
from provisioner.capacity.plant import Wanted
from provisioner.lifecycle.clock import Clock
from provisioner.lifecycle.lanes import Lanes, queue_order
from provisioner.model.agent import Agent
from provisioner.model.errors import BUILDS_OWN_FAULT, WORLDS_FAULT, NoRoom, ProvisionerError, Reason
from provisioner.model.queue import QueueItem, RequestKey
from provisioner.model.request import REQUEST_MOVES, Request, RequestState
from provisioner.records.store import Store
from provisioner.routing.expression import read
from provisioner.routing.match import Match, Router

_WORLD_PAUSE_FIRST_S = 5.0
_WORLD_PAUSE_MOST_S = 120.0


class RequestBook:
    """Every buildable item of every controller, with the templates that serve it.

    Only what could not be learnt again after a restart is stored: failed attempts and the reason of an end.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        router: Router,
        capped: Iterable[str] = (),
    ) -> None:
        self._store = store
        self._capped = frozenset(capped)  # labels that have a cap
        self._clock = clock
        self._router = router
        self._requests: dict[RequestKey, Request] = {}
        self._lanes = Lanes()  # those that wait
        #: items that no template serves, kept for `explain` and for the next configuration
        self.unserved: dict[RequestKey, QueueItem] = {}
        self._remembered = {r.item.key: r for r in store.requests()}
        self._stored = set(self._remembered)
        self._failing: dict[RequestKey, None] = {}
        self._paused: dict[RequestKey, None] = {}
        self._by_id: dict[tuple[str, int], RequestKey] = {}  # of requests and of items that no template serves
        self._unchecked: dict[RequestKey, None] = {}  # nobody has looked yet at what they ask for
        self._untaken: dict[RequestKey, int] = {}  # agents that were there for it in vain
        self._expected: dict[RequestKey, Agent] = {}  # agents of an earlier process, by the request they serve

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def __len__(self) -> int:
        return len(self._requests)

    def get(self, key: RequestKey | None) -> Request | None:
        """The request of a key, unless it left."""
        return self._requests.get(key) if key else None

    def find(self, controller: str, queue_id: int) -> Request | None:
        """The request of a queue id, as a person or an executor names it."""
        return self.get(self._by_id.get((controller, queue_id)))

    def find_unserved(self, controller: str, queue_id: int) -> RequestKey | None:
        """The key of an item that no template serves."""
        key = self._by_id.get((controller, queue_id))
        return key if key in self.unserved else None

    def known(self, controller: str) -> list[RequestKey]:
        """Keys of everything this controller's queue was seen to hold."""
        everything = (self._requests, self.unserved, self._remembered)
        return [key for keys in everything for key in keys if key.controller == controller]

    def queued(self, key: RequestKey | None) -> bool:
        """Whether its item is in the queue, as far as was seen, whoever serves it."""
        return key in self._requests or key in self.unserved

    def expect(self, key: RequestKey, agent: Agent) -> None:
        """An agent of an earlier process serves this request, if its item is still in the queue."""
        self._expected[key] = agent

    def see(self, item: QueueItem) -> bool:
        """An item is in the queue; whether it is news that the planner should look at."""
        key = item.key
        if (request := self._requests.get(key)) is not None:
            return self._seen_again(request, item)
        if (unserved := self.unserved.get(key)) is not None:
            if unserved.label == item.label:
                return False
            del self.unserved[key]
        self._by_id[(key.controller, key.queue_id)] = key
        agent = self._expected.pop(key, None)
        request = self._remembered.pop(key, None) or self._new(item)
        if request.state is RequestState.FAILING:
            self._put(request)
            return True
        if not _alike(request.item, item):  # its label was edited while no sidecar looked
            request = self._afresh(request)
        request = replace(request, item=item)
        if agent is None:
            return self._wait(replace(request, state=RequestState.WAITING, agent=None)) is not None
        self._put(replace(request, state=RequestState.SERVED, agent=agent.name, template=agent.template))
        return True

    def _new(self, item: QueueItem) -> Request:
        return Request(item=item, state=RequestState.WAITING, template="", first_seen=self._clock.now())

    def _seen_again(self, before: Request, item: QueueItem) -> bool:
        """It is known; but a job's label can be edited while its build waits, and Jenkins goes by the new one."""
        if before.state is RequestState.FAILING or (
            before.state is RequestState.WAITING and before.item.label == item.label
        ):
            return False
        request = replace(before, item=item)
        if _alike(before.item, item):
            self._requests[item.key] = request  # of one that is served it also tells why it waits
            return False
        request = self._afresh(request)
        if request.state is RequestState.WAITING:
            self._wait(request)
            self._unchecked[item.key] = None
        else:
            self._put(request)
        return True

    def _afresh(self, request: Request) -> Request:
        """Without the failures of launches for another label; that there are none needs no record."""
        self._forget(request.item.key)
        return replace(
            request,
            attempts=0,
            world_faults=0,
            failed_at=(),
            not_before=None,
            reason=None,
            detail="",
            tail=(),
        )

    def _wait(self, request: Request) -> Request | None:
        """It waits for the template that serves it as things are now; None if there is none, and so no request.

        The configuration, or what its job asks for, may be another than when it was given its template.
        """
        key, before = request.item.key, self._requests.get(request.item.key)
        winner = self._router.match(request.item).winner
        if winner is None:
            self._forget(key)
            self._drop(request)
            self.unserved[key] = request.item
            return None
        request = replace(request, template=winner.template)
        self._put(request)
        if before is None or before.template != winner.template:
            self._unchecked[key] = None
        return request

    def reroute(self, router: Router, capped: Iterable[str] = ()) -> None:
        """A new configuration: what waits is matched again; what is served stays, until its agent goes."""
        self._router, self._capped = router, frozenset(capped)
        items = [*self.unserved.values()]
        self.unserved.clear()
        for request in [r for r in self._requests.values() if r.state is RequestState.WAITING]:
            if self._wait(request) is not None:
                self._unchecked[request.item.key] = None  # the template may be another under the same name
        for item in items:
            self.see(item)

    def match(self, request: Request) -> Match | None:
        """How the request's template serves it now; None if the configuration no longer has it."""
        return next((m for m in self._router.match(request.item).matches if m.template == request.template), None)

    def wanted(self, request: Request) -> Wanted:
        """The agent that it asks for, as far as the caps care."""
        match, controller = self.match(request), request.item.key.controller
        if match is None:
            return Wanted(template=request.template, controller=controller)
        return wanted_by(match, controller, self._capped)

    def waiting(self, most_per_lane: int, open_to: Container[str]) -> list[Request]:
        """Who waits to be placed now, in the order of the queue, bounded for each kind of agent that is asked for.

        The bound is what could be placed at all; ten thousand items behind a full template cost nothing.

        Args:
            most_per_lane: the bound.
            open_to: controllers whose requests can be placed now.
        """
        now = self._clock.now()
        heads: list[Request] = []
        for wanted, keys in self._lanes:
            if wanted.controller not in open_to:
                continue
            taken = 0
            for key in keys:
                request = self._requests[key]
                if _due(request, now):
                    heads.append(request)
                    taken += 1
                    if taken >= most_per_lane:
                        break
        heads.sort(key=lambda r: queue_order(r.item))
        return heads

    def take_unchecked(self) -> list[Request]:
        """The waiting requests that are new since the last call."""
        keys, self._unchecked = self._unchecked, {}
        found = (self._requests.get(key) for key in keys)
        return [request for request in found if request is not None and request.state is RequestState.WAITING]

    def failing(self) -> list[Request]:
        """The requests that are to be ended."""
        return [self._requests[key] for key in self._failing]

    def refuse(self, request: Request, reason: Reason, detail: str) -> None:
        """It cannot be served, by its own fault, and no launch was needed to know it. Idempotent."""
        current = self.get(request.item.key)
        if current is not None and current.state is RequestState.WAITING:
            self._put(self._moved(current, RequestState.FAILING, reason=reason, detail=detail, tail=()))
            self._keep(self._requests[request.item.key])

    def pause(self, request: Request, until: datetime | None) -> None:
        """Do not place it before then; None: place it as soon as there is room."""
        current = self.get(request.item.key)
        if current is not None and current.state is RequestState.WAITING:
            self._put(replace(current, not_before=until))

    def next_wake(self) -> datetime | None:
        """When the first pause of a waiting request ends."""
        now = self._clock.now()
        paused = (request for key in self._paused if not _due(request := self._requests[key], now))
        return min((r.not_before for r in paused if r.not_before), default=None)

    def served(self, request: Request, agent: str) -> None:
        """An agent is coming for it."""
        self._put(self._moved(request, RequestState.SERVED, agent=agent))

    def gone(self, key: RequestKey) -> Request | None:
        """It left the queue, for whatever reason; what it was, if it was known. Idempotent."""
        self.unserved.pop(key, None)
        self._remembered.pop(key, None)
        if self._by_id.get((key.controller, key.queue_id)) == key:
            del self._by_id[(key.controller, key.queue_id)]
        request = self._requests.get(key)
        if request is not None:
            self._drop(request)
        self._untaken.pop(key, None)
        self._forget(key)
        return request

    def agent_failed(self, agent: Agent, error: ProvisionerError, *, pause: bool = True) -> Request | None:
        """A launch failed: wait and try again, or end the request; the request in its new state.

        Args:
            agent: the one that failed.
            error: why.
            pause: whether a request that waits does so for a while, whatever room there is.
        """
        request = self.get(agent.request)
        if request is None or request.state is not RequestState.SERVED or request.agent != agent.name:
            return None
        now = self._clock.now()
        told = {
            "reason": error.reason,
            "detail": error.message,
            "tail": error.tail,
            "agent": None,
            "failed_at": (*(name for name in request.failed_at if name != agent.provider), agent.provider),
        }
        if error.reason in WORLDS_FAULT or isinstance(error, NoRoom):
            faults = request.world_faults + 1
            pause_s = min(_WORLD_PAUSE_MOST_S, _WORLD_PAUSE_FIRST_S * 2 ** min(faults - 1, 10))
            request = self._moved(
                request,
                RequestState.WAITING,
                world_faults=faults,
                not_before=now + timedelta(seconds=pause_s) if pause else None,
                **told,
            )
        else:
            attempts = request.attempts + 1
            final = error.reason in BUILDS_OWN_FAULT or attempts > _retries(agent)
            state = RequestState.FAILING if final else RequestState.WAITING
            request = self._moved(request, state, attempts=attempts, world_faults=0, **told)
        if request.state is RequestState.WAITING:
            waiting = self._wait(request)
            if waiting is None:
                return None
            request = waiting
        else:
            self._put(request)
        self._keep(request)
        return request

    def released(self, agent: Agent) -> bool:
        """Its agent went without a fault of the launch; whether the request is still there and waits again."""
        expected = self._expected.get(agent.request) if agent.request is not None else None
        if agent.request is not None and expected is not None and expected.name == agent.name:
            del self._expected[agent.request]  # it went before its item was seen again
        request = self.get(agent.request)
        if request is None or request.state is not RequestState.SERVED or request.agent != agent.name:
            return False
        return self._wait(self._moved(request, RequestState.WAITING, agent=None)) is not None

    def untaken(self, key: RequestKey) -> int:
        """How many agents in a row were there for it in vain."""
        return self._untaken.get(key, 0)

    def count_untaken(self, key: RequestKey) -> None:
        """An agent was there for it, and no build started on it. Forgotten by a restart."""
        self._untaken[key] = self.untaken(key) + 1

    def spared(self, request: Request, pause_s: float) -> None:
        """It was not ended, since a static node or another cloud could serve it: wait, and look again later."""
        not_before = self._clock.now() + timedelta(seconds=pause_s)
        waiting = self._wait(self._moved(request, RequestState.WAITING, attempts=0, not_before=not_before))
        if waiting is not None:
            self._keep(waiting)

    def handed_over(self, request: Request, agent: str | None) -> None:
        """Another agent of ours serves it from now on; with None it waits for a new one."""
        if agent is not None:
            self._put(replace(request, agent=agent))
        elif request.state is RequestState.SERVED:
            self._wait(self._moved(request, RequestState.WAITING, agent=None))

    def put_back(self, request: Request) -> None:
        """What was decided about it last could not be written: it is as it was."""
        self.unserved.pop(request.item.key, None)
        self._put(request)

    @staticmethod
    def _moved(request: Request, state: RequestState, **changes: object) -> Request:
        if state not in REQUEST_MOVES[request.state]:
            raise ProvisionerError(f"request {request.item.key} cannot go from {request.state} to {state}")
        return replace(request, state=state, **changes)  # type: ignore[arg-type]  # names are checked at run time

    def _keep(self, request: Request) -> None:
        self._store.save_request(request)
        self._stored.add(request.item.key)

    def _forget(self, key: RequestKey) -> None:
        if key in self._stored:
            self._store.forget_request(key)
            self._stored.discard(key)

    def _put(self, request: Request) -> None:
        key = request.item.key
        self._requests[key] = request
        if request.state is RequestState.WAITING:
            self._lanes.enter(request.item, self.wanted(request))
        else:
            self._lanes.leave(key)
        _mark(self._failing, key, request.state is RequestState.FAILING)
        _mark(self._paused, key, request.state is RequestState.WAITING and request.not_before is not None)

    def _drop(self, request: Request) -> None:
        self._requests.pop(request.item.key, None)
        self._failing.pop(request.item.key, None)
        self._paused.pop(request.item.key, None)
        self._lanes.leave(request.item.key)


def _alike(one: QueueItem, other: QueueItem) -> bool:
    """Whether both ask for the same label; it comes as the job has it, or as Jenkins prints it."""
    if one.label is None or other.label is None:
        return one.label == other.label
    return one.label == other.label or read(one.label)[0] == read(other.label)[0]


def _retries(agent: Agent) -> int:
    """By the template as it was when the agent was planned; the configuration may have none of that name now."""
    retries = agent.spec.get("retries", 0)
    return retries if isinstance(retries, int) else 0


def _mark(marked: dict[RequestKey, None], key: RequestKey, there: object) -> None:
    if there:
        marked[key] = None
    else:
        marked.pop(key, None)


def _due(request: Request, now: datetime) -> bool:
    """Whether its pause is over; one that looks longer than any is, comes of a wall clock that was set back."""
    if request.not_before is None:
        return True
    longest = timedelta(seconds=_WORLD_PAUSE_MOST_S)
    if request.reason is None:  # a head start, which begins when the item was first seen
        longest = request.not_before - request.first_seen
    return not now < request.not_before <= now + longest
