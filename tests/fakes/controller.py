"""A controller in memory: it keeps the `Controller` protocol, and a test plays Jenkins through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from provisioner.controller.port import (
    AgentPort,
    BridgeMode,
    BuildFinished,
    BuildStarted,
    ControllerInfo,
    Dial,
    FailOutcome,
    Fate,
    FateOf,
    ItemBuildable,
    ItemLeft,
    NodeOffline,
    NodeOnline,
    NodeOrder,
    Observation,
    Registration,
    Snapshot,
    Unreachable,
)
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, NodeView, QueueItem, RequestKey


@dataclass
class FakeNode:
    order: NodeOrder
    view: NodeView
    lines: list[str] = field(default_factory=list)
    barred: bool = False


class FakeController:
    """Jenkins as a test plays it: `queue`, `connect`, `start_build`, `finish_build`, `restart` …"""

    def __init__(self, name: str = "main", mode: BridgeMode = BridgeMode.SCRIPT) -> None:
        self.name = name
        self.mode = mode
        self.session = 1
        self.items: dict[int, QueueItem] = {}
        self.nodes: dict[str, FakeNode] = {}
        self.fates: dict[RequestKey, FateOf] = {}
        self.outcomes: dict[str, str] = {}  # results of builds, by their URL
        self.failed: list[tuple[QueueItem, str, str, tuple[str, ...]]] = []
        self.told: list[tuple[str | None, tuple[str, ...]]] = []
        self.registered: list[str] = []
        self.removed: list[str] = []
        self.down: str | None = None
        self.refuse: dict[str, ControllerError] = {}
        self.fail_outcome = FailOutcome.NOT_BUILT
        self.jar = b"jar"
        self.others_serve = False
        self.quieting_down = False
        self.entries: set[str] = set()  # agents with a credentials entry
        self.dialled: dict[str, Dial] = {}
        self.port_for_agents = AgentPort(host="c", port=50000)
        self.launch_log: dict[str, tuple[str, ...]] = {}
        self.given: list[tuple[str, QueueItem]] = []
        self._seen: asyncio.Queue[Observation] = asyncio.Queue()
        self._ids = 0

    # what a test does

    def queue(
        self,
        label: str | None = "maven",
        job: str = "app",
        kind: ItemKind = ItemKind.FREESTYLE,
        parameters: Mapping[str, str] | None = None,
    ) -> QueueItem:
        self._ids += 1
        key = RequestKey(controller=self.name, queue_id=self._ids, since_ms=1_000_000 + self._ids, task=f"job/{job}/")
        item = QueueItem(key=key, kind=kind, job=job, label=label, parameters=parameters or {})
        self.items[key.queue_id] = item
        self.fates[key] = FateOf(fate=Fate.WAITING)
        self._seen.put_nowait(ItemBuildable(item=item))
        return item

    def cancel(self, item: QueueItem) -> None:
        if self.items.pop(item.key.queue_id, None):
            self.fates[item.key] = FateOf(fate=Fate.CANCELLED)
            self._left(item, cancelled=True, node=None)

    def connect(self, name: str) -> None:
        node = self.nodes[name]
        node.view = replace(node.view, online=True)
        self._seen.put_nowait(NodeOnline(name=name))

    def disconnect(self, name: str, cause: str = "connection was broken") -> None:
        node = self.nodes[name]
        node.view = replace(node.view, online=False, offline_cause=cause)
        self._seen.put_nowait(NodeOffline(name=name, cause=cause))

    def start_build(self, name: str, item: QueueItem | None = None) -> QueueItem:
        node = self.nodes[name]
        taken = item or node.order.request
        assert taken is not None
        del self.items[taken.key.queue_id]
        url = f"{taken.key.task}1/"
        node.view = replace(
            node.view,
            busy=True,
            started_once=self.mode is not BridgeMode.OFF,
            queue_id=taken.key.queue_id,
            build_url=url,
            accepting=self.mode is BridgeMode.OFF,
        )
        self.fates[taken.key] = FateOf(fate=Fate.STARTED, build_url=url, building=True, node=name)
        self._left(taken, cancelled=False, node=name)
        self._seen.put_nowait(BuildStarted(name=name, queue_id=taken.key.queue_id, build_url=url))
        return taken

    def finish_build(self, name: str, result: str | None = "SUCCESS", *, lost: bool = False) -> None:
        """`result`: what the build shows then; None while the run of a `node` block goes on."""
        node = self.nodes[name]
        if node.view.build_url and result:
            self.outcomes[node.view.build_url] = result
        freestyle = node.order.request is not None and node.order.request.kind is not ItemKind.PIPELINE
        node.view = replace(
            node.view, busy=False, finished=self.mode is not BridgeMode.OFF, queue_id=None, build_url=None
        )
        if self.mode is BridgeMode.OFF:
            self.show()  # nothing but the next poll tells
            return
        failed = lost or (freestyle and result == "FAILURE")
        self._seen.put_nowait(BuildFinished(name=name, queue_id=node.view.queue_id, failed=failed, lost=lost))

    def take_elsewhere(self, item: QueueItem, node: str = "static") -> None:
        del self.items[item.key.queue_id]
        self.fates[item.key] = FateOf(fate=Fate.STARTED, building=True, node=node)
        self._left(item, cancelled=False, node=node)

    def restart(self) -> None:
        """A clean restart: queue and nodes stay, agents are cut off, the bridge is gone and put back."""
        self.session += 1
        for node in self.nodes.values():
            node.view = replace(node.view, online=False, busy=False, known=False, started_once=False)
        self.show()

    def show(self, *, complete: bool = True) -> None:
        self._seen.put_nowait(replace(self._snapshot(), complete=complete))

    def outage(self, message: str = "connection refused") -> None:
        self.down = message
        self._seen.put_nowait(Unreachable(message=message))

    def recover(self) -> None:
        self.down = None
        self.show()

    def observe(self, seen: Observation) -> None:
        self._seen.put_nowait(seen)

    # the protocol

    @property
    def info(self) -> ControllerInfo:
        return ControllerInfo(
            name=self.name,
            version="2.460",
            session=str(self.session),
            mode=self.mode,
            user="provisioner",
            quieting_down=self.quieting_down,
        )

    async def open(self) -> ControllerInfo:
        return self.info

    async def close(self) -> None:
        return None

    async def watch(self) -> AsyncIterator[Observation]:
        self.show()
        while True:
            try:
                async with asyncio.timeout(0.05 if self.mode is BridgeMode.OFF else None):
                    seen = await self._seen.get()
            except TimeoutError:
                seen = Unreachable(message=self.down) if self.down else self._snapshot()  # the poll's pace
            yield seen

    async def snapshot(self) -> Snapshot:
        self._check("snapshot")
        return self._snapshot()

    async def register(self, order: NodeOrder) -> Registration:
        self._check("register")
        if order.name not in self.nodes:
            self.nodes[order.name] = FakeNode(order=order, view=NodeView(name=order.name, online=False, busy=False))
        self.nodes[order.name].lines.extend(order.lines)
        self.registered.append(order.name)
        return Registration(secret=f"secret of {order.name}")

    async def adopt(self, order: NodeOrder) -> bool:
        self._check("adopt")
        node = self.nodes.get(order.name)
        if node is None:
            return False
        node.order = order
        node.view = replace(node.view, known=True, started_once=order.started)
        return True

    async def dial(self, order: NodeOrder, dial: Dial) -> None:
        self._check("dial")
        self.entries.add(order.name)
        self.dialled[order.name] = dial

    async def credentials(self) -> tuple[str, ...]:
        self._check("credentials")
        return tuple(sorted(self.entries))

    async def remove_credentials(self, name: str) -> None:
        self._check("remove_credentials")
        self.entries.discard(name)

    async def launch_tail(self, name: str, lines: int = 20) -> tuple[str, ...]:
        self._check("launch_tail")
        return self.launch_log.get(name, ())[-lines:]

    async def remove(self, name: str, lines: Sequence[str] = (), *, credentials: bool = False) -> None:
        self._check("remove")
        if credentials:
            self.entries.discard(name)
        node = self.nodes.pop(name, None)
        if node is not None:
            node.lines.extend(lines)
        self.removed.append(name)

    async def tell(self, name: str | None, request: QueueItem | None, lines: Sequence[str]) -> None:
        self._check("tell")
        self.told.append((name, tuple(lines)))

    async def bar(self, name: str) -> None:
        self._check("bar")
        if name in self.nodes:
            node = self.nodes[name]
            node.barred = True
            node.view = replace(node.view, accepting=False)

    async def let_return(self, name: str) -> None:
        self._check("let_return")
        node = self.nodes[name]
        node.barred = False
        node.view = replace(node.view, accepting=True)

    async def fail(self, request: QueueItem, reason: str, message: str, lines: Sequence[str]) -> FailOutcome:
        self._check("fail")
        self.failed.append((request, reason, message, tuple(lines)))
        if self.fail_outcome is not FailOutcome.SPARED:
            self.cancel(request)
        return self.fail_outcome

    async def give(self, name: str, request: QueueItem) -> None:
        self._check("give")
        if self.mode is BridgeMode.OFF:
            raise ControllerError("no bridge")
        if name not in self.nodes:
            raise ControllerError(f"node {name} is not known to the bridge", code=410)
        node = self.nodes[name]
        assert node.order.request is None, "a node is given one item in its life"
        node.order = replace(node.order, request=request)
        self.given.append((name, request))

    async def others(self, request: QueueItem) -> bool:
        self._check("others")
        return self.others_serve

    async def fate(self, key: RequestKey) -> FateOf:
        self._check("fate")
        return self.fates.get(key, FateOf(fate=Fate.UNKNOWN))

    async def outcome(self, build_url: str) -> str | None:
        self._check("outcome")
        return self.outcomes.get(build_url)

    async def agent_port(self, agent_url: str) -> AgentPort:
        return self.port_for_agents

    async def agent_jar(self) -> bytes:
        return self.jar

    def requests_made(self) -> Mapping[tuple[str, str], int]:
        return {}

    def _check(self, op: str) -> None:
        if self.down:
            raise ControllerError(self.down, retryable=True)
        if op in self.refuse:
            raise self.refuse[op]

    def _left(self, item: QueueItem, *, cancelled: bool, node: str | None) -> None:
        self._seen.put_nowait(
            ItemLeft(queue_id=item.key.queue_id, since_ms=item.key.since_ms, cancelled=cancelled, node=node)
        )

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            info=self.info,
            items=tuple(self.items.values()),
            nodes=tuple(node.view for node in self.nodes.values()),
        )
