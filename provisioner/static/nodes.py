"""The clean nodes of one controller: which are free, which is reserved for which agent, and how one goes back.

A reserved node stays as it is but for that; once its item has begun it counts as used, and the scheduler of `cleanup`
does with it what it does with every used node. Nothing is kept here that the controller does not tell again but the
node of each agent, which is in the agent's record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from provisioner.capacity.plant import StaticRoom
from provisioner.controller.rest import Rest
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError, NoRoom, Reason
from provisioner.model.queue import RequestKey
from provisioner.static.facts import Seat, Seats, StaticNode

log = structlog.get_logger()

T = TypeVar("T")

_THREADS = 4
#: What was seen is good enough for a decision that is checked again by the controller itself.
FRESH_S = 1.0
_TOLD = 5


class Cleaner(Protocol):
    """Who looks after the nodes; `cleanup.Scheduler` does."""

    def used(self, name: str, url: str | None) -> object:
        """A build has begun on a clean node: what follows from it is done now, not at the next look."""
        ...


@dataclass(slots=True, kw_only=True)
class Placed:
    """An agent on a static node."""

    agent: str
    node: str
    request: RequestKey | None
    since_s: float = 0.0  # monotonic, when it was reserved or remembered
    lines: tuple[str, ...] = ()  # for the top of its build's console
    lost: bool = False  # its item has not begun, and the controller, started anew perhaps, knows of no reservation
    began: bool = False  # its item has, as far as is known
    ended: bool = False
    reported: bool = False  # whether the cleaner knows of it
    closed: bool = False


class StaticNodes:
    """Nodes to choose from, and the agents on them.

    Args:
        owner: our owner id.
        http: the controller.
        seats: how nodes are reserved.
        plainly: the same without the script console; used if the account turns out to lack Administer.
        cleaner: who looks after them.
        needs: for each provider, labels that its nodes have.
        monotonic: a clock.
    """

    def __init__(
        self,
        *,
        owner: str,
        http: Rest,
        seats: Seats,
        plainly: Seats,
        cleaner: Cleaner,
        needs: Mapping[str, Sequence[str]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = owner
        self._http = http
        self._seats = seats
        self._plainly = plainly
        self._cleaner = cleaner
        self._needs = {provider: frozenset(labels) for provider, labels in needs.items()}
        self._monotonic = monotonic
        self._pool = DaemonPool(_THREADS, f"static-{http.name}")
        self._looking = asyncio.Lock()
        self._choosing = asyncio.Lock()
        self._looked_s = float("-inf")
        self._nodes: tuple[StaticNode, ...] = ()
        self._placed: dict[str, Placed] = {}
        self._news = asyncio.Event()

    def close(self) -> None:
        """Let go of threads and connections."""
        self._pool.shutdown()
        self._http.close()

    def requests_made(self) -> Mapping[tuple[str, str], int]:
        """Requests by (operation, status code)."""
        return self._http.counts()

    # -- seeing

    async def look(self, max_age_s: float = FRESH_S) -> tuple[StaticNode, ...]:
        """Every node that is looked after, as it was at most so long ago.

        Raises:
            ControllerError: they could not be read.
        """
        async with self._looking:
            if self._monotonic() - self._looked_s > max_age_s:
                began_s = self._monotonic()
                self._nodes = await self._run(lambda seats: seats.look())
                self._looked_s = began_s
                self._learn(began_s)
        return self._nodes

    def _learn(self, began_s: float) -> None:
        by_name = {node.name: node for node in self._nodes}
        for placed in self._placed.values():
            node = by_name.get(placed.node)
            if node is None:
                continue
            seat = node.seat if node.seat is not None and node.seat.agent == placed.agent else None
            placed.began = placed.began or node.busy or (seat is not None and seat.taken)
            if placed.began and (seat is None or seat.finished) and not node.busy:
                placed.ended = True
            # one that was made during this look is not in it
            placed.lost = seat is None and not placed.began and began_s > placed.since_s

    def room(self, provider: str) -> StaticRoom:
        """How many agents more the provider could serve, by the last look."""
        fitting = [node for node in self._nodes if self._needs[provider] <= node.labels]
        held = {placed.node for placed in self._placed.values()}
        free = [node.name for node in fitting if not node.unfit and node.name not in held]
        told = [f"{node.name} {node.unfit or 'is reserved'}" for node in fitting if node.name not in free]
        more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        why = f"none of its nodes is clean and free: {', '.join(told[:_TOLD])}{more}" if told else "it has no node"
        return StaticRoom(free=len(free), reason=why)

    def placed(self, agent: str) -> Placed | None:
        """Where an agent is, if it is on a static node."""
        return self._placed.get(agent)

    def on(self, node: str) -> Placed | None:
        """The agent on a node."""
        return next((placed for placed in self._placed.values() if placed.node == node), None)

    def all_placed(self) -> list[Placed]:
        """The agents on static nodes."""
        return list(self._placed.values())

    async def news(self, within_s: float) -> None:
        """Wait until something was reserved here, for so long at most."""
        try:
            async with asyncio.timeout(within_s):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    # -- acting

    def remember(self, agent: str, node: str, request: RequestKey | None) -> Placed:
        """An agent has been on this node before."""
        made = Placed(agent=agent, node=node, request=request, since_s=self._monotonic())
        return self._placed.setdefault(agent, made)

    async def place(
        self, provider: str, agent: str, request: RequestKey, labels: Sequence[str], lines: Sequence[str]
    ) -> Placed:
        """Reserve a clean node for an agent; again, it is the same one.

        Raises:
            NoRoom: none is clean and free any more.
            ControllerError: it could not be told.
        """
        async with self._choosing:
            if (known := self._placed.get(agent)) is not None:
                return known
            nodes = await self.look(max_age_s=0.0)
            for node in nodes:
                if node.seat is not None and node.seat.agent == agent:
                    return self._seated(agent, node.name, request)
            whose = {placed.node for placed in self._placed.values()}
            fitting = [n for n in nodes if self._needs[provider] <= n.labels and not n.unfit and n.name not in whose]
            told = self.room(provider).reason
            for node in fitting:
                why = await self._reserve(node, agent, request, labels, lines)
                if not why:
                    placed = self._seated(agent, node.name, request)
                    placed.lines = tuple(lines)
                    return placed
                told = f"{node.name} {why}"
        raise NoRoom(
            f"provider {provider} has no clean node left: {told}", reason=Reason.PROVIDER_UNREACHABLE, retryable=False
        )

    async def _reserve(
        self, node: StaticNode, agent: str, request: RequestKey, labels: Sequence[str], lines: Sequence[str]
    ) -> str:
        seat = Seat(
            agent=agent,
            owner=self.owner,
            queue_id=request.queue_id,
            since_ms=request.since_ms,
            labels=tuple(label for label in labels if label not in node.labels),
        )
        return await self._run(lambda seats: seats.reserve(node.name, seat, lines))

    async def seat_again(self, agent: str, labels: Sequence[str]) -> bool:
        """Make a reservation anew that the controller has lost, if the node is still fit for it.

        Returns:
            Whether the agent has its node; if not, it has none from now on.

        Raises:
            ControllerError: it could not be told; call again.
        """
        async with self._choosing:
            placed = self._placed.get(agent)
            if placed is None:
                return False
            node = next((node for node in await self.look(max_age_s=0.0) if node.name == placed.node), None)
            if placed.request is None or not placed.lost:
                return True
            why = "is gone"
            if node is not None:
                why = node.unfit or await self._reserve(node, agent, placed.request, labels, placed.lines)
            self._looked_s = float("-inf")
            if why:
                log.info("static.seat_lost", agent=agent, node=placed.node, problem=f"it {why}", next="another agent")
                self._placed.pop(agent, None)
                return False
            log.info("static.reserved_again", agent=agent, node=placed.node)
            placed.lost, placed.since_s = False, self._monotonic()
            return True

    def _seated(self, agent: str, node: str, request: RequestKey) -> Placed:
        log.info("static.reserved", agent=agent, node=node, request=str(request))
        self._looked_s = float("-inf")
        self._news.set()
        return self.remember(agent, node, request)

    async def say(self, placed: Placed, lines: Sequence[str]) -> None:
        """Lines for the top of the build's console, where it has not begun."""
        if lines and not placed.began:
            placed.lines += tuple(lines)
            await self._run(lambda seats: seats.say(placed.node, placed.agent, lines))

    async def begun(self, placed: Placed, url: str | None) -> None:
        """Its item has begun there: the node is its own again, and used."""
        placed.began = True
        if not placed.closed:
            await self._run(lambda seats: seats.close(placed.node, placed.agent))
            placed.closed = True
        if not placed.reported:
            # a name of its own where the build's is not known: counted as one use all the same
            token = url if url is not None or self._seats.exclusive else f"agent-{placed.agent}"
            try:
                await self._pool.run(self._cleaner.used, placed.node, token)
            except ControllerError as error:
                if error.retryable:
                    raise
                log.warning("static.not_soiled", node=placed.node, problem=error.message, next="the next look sees it")
            placed.reported = True

    async def give_back(self, agent: str) -> None:
        """The agent is done: whatever runs of it is ended, the node is free of it. Gone already is done.

        Raises:
            ControllerError: call again.
        """
        placed = self._placed.get(agent)
        if placed is not None and placed.began:
            await self._give_back(agent)
            return
        async with self._choosing:  # or it could be made anew at the same moment
            await self._give_back(agent)

    async def _give_back(self, agent: str) -> None:
        placed = self._placed.get(agent)
        if placed is None:
            # a record that was lost, or written too late
            nodes = [n for n in await self.look(max_age_s=0.0) if n.seat is not None and n.seat.agent == agent]
            if not nodes:
                return
            placed = Placed(agent=agent, node=nodes[0].name, request=None)
        elif not placed.ended:
            await self.look(max_age_s=0.0)
        ends_build = placed.began and not placed.ended
        try:
            if placed.began:
                await self.begun(placed, None)
            await self._run(lambda seats: seats.free(placed.node, agent, ends_build=ends_build))
        except ControllerError as error:
            if error.code != 404:
                raise
            log.info("static.node_gone", agent=agent, node=placed.node)  # and the reservation with it
        self._placed.pop(agent, None)
        self._looked_s = float("-inf")
        log.info("static.given_back", agent=agent, node=placed.node, used=placed.began)

    async def _run(self, work: Callable[[Seats], T]) -> T:
        try:
            return await self._pool.run(work, self._seats)
        except ControllerError as error:
            if error.code not in {401, 403} or self._seats is self._plainly:
                raise
            log.warning("static.plain", problem=error.message, instead="plain REST: another build may come in between")
            self._seats = self._plainly
            return await self._pool.run(work, self._seats)
