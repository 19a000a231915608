"""A controller some of whose agents are static nodes: for everybody else they look like any other agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from provisioner.controller.port import (
    AgentPort,
    BuildFinished,
    BuildStarted,
    Controller,
    ControllerInfo,
    Dial,
    FailOutcome,
    FateOf,
    ItemLeft,
    NodeOnline,
    NodeOrder,
    Observation,
    Registration,
    Snapshot,
)
from provisioner.controller.rest_views import relative
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, NodeView, QueueItem, RequestKey
from provisioner.static.facts import StaticNode
from provisioner.static.nodes import Placed, StaticNodes

log = structlog.get_logger()


class StaticPort:
    """See `controller.port.Controller`. What is not about a static node goes to the controller as it is.

    Args:
        inner: the controller.
        nodes: its static nodes.
        providers: names of the providers that they are behind.
        interval_s: how often agents on them are looked at.
    """

    def __init__(self, inner: Controller, nodes: StaticNodes, *, providers: Collection[str], interval_s: float) -> None:
        self._inner = inner
        self._nodes = nodes
        self._providers = frozenset(providers)
        self._interval_s = interval_s
        self._told: dict[str, NodeView] = {}
        self._unlisted = ""  # why the nodes could not be listed; empty: they could

    @property
    def info(self) -> ControllerInfo | None:
        """The controller's."""
        return self._inner.info

    async def open(self) -> ControllerInfo:
        """The controller's."""
        return await self._inner.open()

    async def close(self) -> None:
        """Both."""
        self._nodes.close()
        await self._inner.close()

    # -- seeing

    async def watch(self) -> AsyncIterator[Observation]:
        """What the controller tells, with the agents on static nodes in it, and what becomes of them in between."""
        seen: asyncio.Queue[Observation | BaseException] = asyncio.Queue(maxsize=1)

        async def follow(source: AsyncIterator[Observation]) -> None:
            try:
                async for observation in source:
                    await seen.put(observation)
            except Exception as error:  # noqa: BLE001  (it is the reader's)
                await seen.put(error)

        tasks = [asyncio.create_task(follow(self._inner.watch())), asyncio.create_task(follow(self._changes()))]
        try:
            while True:
                observation = await seen.get()
                if isinstance(observation, BaseException):
                    raise observation
                match observation:
                    case Snapshot():
                        yield await self._completed(observation)
                    case ItemLeft(node=str()):
                        yield self._renamed(observation)
                    case _:
                        yield observation
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _changes(self) -> AsyncIterator[Observation]:
        while True:
            await self._nodes.news(self._interval_s)
            if not self._nodes.all_placed():
                self._told.clear()
                continue
            try:
                views = {view.name: view for view in await self._views(max_age_s=0.0)}
            except ControllerError as error:
                self._listed(error)
                continue
            self._listed(None)
            lost = {name for name, view in views.items() if not view.known}
            newly_lost = lost - {name for name, view in self._told.items() if not view.known}
            for name, view in views.items():
                before = self._told.get(name)
                if view.online and not (before and before.online):
                    yield NodeOnline(name=name)
                if view.started_once and not (before and before.started_once):
                    yield BuildStarted(name=name, queue_id=view.queue_id, build_url=view.build_url)
                if view.finished and not (before and before.finished):
                    yield BuildFinished(name=name, queue_id=view.queue_id)
            self._told = views
            if newly_lost:
                # whoever reads it has them adopted
                try:
                    yield await self._inner.snapshot()
                except ControllerError as error:
                    log.info("static.unknown", problem=error.message, next="the next snapshot shows it")

    async def snapshot(self) -> Snapshot:
        """The whole truth now."""
        return await self._completed(await self._inner.snapshot())

    async def _completed(self, snapshot: Snapshot) -> Snapshot:
        try:
            views = await self._views(max_age_s=self._interval_s)
        except ControllerError as error:
            # An agent that is not seen may well be there: nothing may be swept, called missing, or, after a start,
            # placed a second time.
            self._listed(error)
            return replace(snapshot, complete=False, unseen=f"its static nodes: {error.message}")
        self._listed(None)
        return replace(snapshot, nodes=(*snapshot.nodes, *views))

    def _listed(self, error: ControllerError | None) -> None:
        """Tell once that the nodes cannot be listed, again for another reason, and once that they can."""
        problem = error.message if error is not None else ""
        if problem and problem != self._unlisted:
            log.warning("static.unknown", problem=problem)
        elif self._unlisted and not problem:
            log.info("static.known")
        self._unlisted = problem

    async def _views(self, max_age_s: float) -> list[NodeView]:
        views = []
        for node in await self._nodes.look(max_age_s):
            placed = self._nodes.on(node.name)
            if placed is None and node.seat is not None and node.seat.owner == self._nodes.owner:
                placed = Placed(  # no record knows it: it is swept like any other node of ours
                    agent=node.seat.agent, node=node.name, request=None, began=node.busy, ended=node.seat.finished
                )
            if placed is None:
                continue
            if placed.began and not placed.reported and self._nodes.placed(placed.agent) is placed:
                try:
                    await self._nodes.begun(placed, node.build_url)
                except ControllerError as error:
                    log.info("static.not_soiled", node=node.name, problem=error.message)
            views.append(_view(placed, node))
        return views

    def _renamed(self, left: ItemLeft) -> ItemLeft:
        placed = self._nodes.on(left.node or "")
        if placed is None or placed.request is None or placed.request.queue_id != left.queue_id:
            return left
        placed.began = True
        return replace(left, node=placed.agent)

    async def outcome(self, build_url: str) -> str | None:
        """The result of a build."""
        return await self._inner.outcome(build_url)

    async def fate(self, key: RequestKey) -> FateOf:
        """What became of an item."""
        fate = await self._inner.fate(key)
        placed = self._nodes.on(fate.node or "")
        if placed is None or placed.request != key:
            return fate
        placed.began = True
        return replace(fate, node=placed.agent)

    # -- acting

    async def register(self, order: NodeOrder) -> Registration:
        """Reserve a clean node, or have the controller make one."""
        if order.provider not in self._providers:
            return await self._inner.register(order)
        if order.request is None:
            raise ControllerError(f"agent {order.name} waits for no build; a static node is reserved for one only")
        if order.request.kind is ItemKind.PIPELINE and self._nodes.placed(order.name) is None:
            # before its step begins, which it may do as soon as a node is reserved: its log is found by its queue item
            await self._inner.tell(None, order.request, order.lines)
        placed = await self._nodes.place(
            order.provider, order.name, order.request.key, order.labels, _top(order.request, order.lines)
        )
        log.debug("static.registered", agent=order.name, node=placed.node)
        return Registration(secret="")

    async def adopt(self, order: NodeOrder) -> bool:
        """Have the controller know it again; a static node's reservation is lost with the controller's memory."""
        if order.provider not in self._providers:
            return await self._inner.adopt(order)
        if order.request is None or order.started:
            return self._nodes.placed(order.name) is not None
        return await self._nodes.seat_again(order.name, order.labels)

    async def dial(self, order: NodeOrder, dial: Dial) -> None:
        """Have the controller dial an agent; a static node is connected already."""
        await self._inner.dial(order, dial)

    async def credentials(self) -> tuple[str, ...]:
        """Names of the agents that have a credentials entry."""
        return await self._inner.credentials()

    async def remove_credentials(self, name: str) -> None:
        """Delete the credentials entry of an agent."""
        await self._inner.remove_credentials(name)

    async def launch_tail(self, name: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines of what the controller says about its connection to a node."""
        return await self._inner.launch_tail(name, lines)

    async def remove(self, name: str, lines: Sequence[str] = (), *, credentials: bool = False) -> None:
        """Give the node back, or have it deleted."""
        if await self._is_static(name):
            await self._nodes.give_back(name)
        else:
            await self._inner.remove(name, lines, credentials=credentials)

    async def tell(self, name: str | None, request: QueueItem | None, lines: Sequence[str]) -> None:
        """Add lines to the launch log as the build shows it."""
        placed = self._nodes.placed(name) if name else None
        if placed is None:
            await self._inner.tell(name, request, lines)
        elif request is not None and request.kind is ItemKind.PIPELINE:
            await self._inner.tell(None, request, lines)
        else:
            await self._nodes.say(placed, lines)

    async def bar(self, name: str) -> None:
        """A reserved node takes its item and no other; its labels go as soon as that has begun."""
        placed = self._nodes.placed(name)
        if placed is not None and placed.began:
            await self._nodes.begun(placed, None)
        elif not await self._is_static(name):
            await self._inner.bar(name)

    async def let_return(self, name: str) -> None:
        """A static node is closed to nobody who comes back to it."""
        if not await self._is_static(name):
            await self._inner.let_return(name)

    async def _is_static(self, name: str) -> bool:
        if self._nodes.placed(name) is not None:
            return True
        return any(node.seat is not None and node.seat.agent == name for node in await self._nodes.look())

    async def fail(self, request: QueueItem, reason: str, message: str, lines: Sequence[str]) -> FailOutcome:
        """End the request with the reason in its console."""
        return await self._inner.fail(request, reason, message, lines)

    async def give(self, name: str, request: QueueItem) -> None:
        """Static nodes are never on standby."""
        await self._inner.give(name, request)

    async def others(self, request: QueueItem) -> bool:
        """Whether somebody else could serve the item."""
        return await self._inner.others(request)

    async def agent_port(self, agent_url: str) -> AgentPort:
        """The controller's TCP port for agents."""
        return await self._inner.agent_port(agent_url)

    async def agent_jar(self) -> bytes:
        """The controller's own agent.jar."""
        return await self._inner.agent_jar()

    def requests_made(self) -> Mapping[tuple[str, str], int]:
        """The controller's and those for the static nodes together."""
        made = dict(self._inner.requests_made())
        for key, count in self._nodes.requests_made().items():
            made[key] = made.get(key, 0) + count
        return made


def _top(request: QueueItem, lines: Sequence[str]) -> Sequence[str]:
    return lines if request.kind is not ItemKind.PIPELINE else ()


def _view(placed: Placed, node: StaticNode) -> NodeView:
    return NodeView(
        name=placed.agent,
        online=node.online,
        busy=node.busy,
        queue_id=node.queue_id,
        build_url=relative(node.build_url) if node.build_url else None,
        offline_cause=node.offline_cause or None,
        accepting=not placed.closed,
        started_once=placed.began,
        finished=placed.ended,
        known=not placed.lost,
    )
