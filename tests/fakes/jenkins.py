"""A Jenkins that lives by its own laws in virtual time, so that whole lives can be checked and not only steps.

Agents of running instances connect, nodes take what they may take, builds end; `Work` remembers what became
of each thing that was queued. Only what Jenkins, its users and the world do is here; `FakeEngine` holds the
instances. The other fake, `FakeController`, does nothing unless a test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from provisioner.backends.contract import InstanceState
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
    Launcher,
    NodeOffline,
    NodeOnline,
    NodeOrder,
    Observation,
    Registration,
    Snapshot,
    Unreachable,
)
from provisioner.lifecycle.deadlines import CUT_OFF_S
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, NodeView, QueueItem, RequestKey
from tests.fakes.clock import VirtualClock
from tests.fakes.engine import FakeEngine

_SNAPSHOT_EVERY_S = 30.0
_POLL_S = 1.0
_TICK_S = 0.5
_GIVEN_UP_AFTER_S = 300.0


@dataclass(eq=False)
class Work:
    """One thing that somebody queued, under whatever queue ids it goes."""

    number: int
    kind: ItemKind
    label: str
    build_s: float
    item: QueueItem | None  # while it waits
    starts: list[str] = field(default_factory=list)  # nodes that began it; a Pipeline that resumes does not begin again
    ended: list[str] = field(default_factory=list)  # what became of it
    node: str | None = None  # where it runs
    ends_at_s: float = 0.0
    given_up_at_s: float | None = None
    may_be_cut: bool = False  # somebody who may do so said that its agent shall go

    @property
    def over(self) -> bool:
        return bool(self.ended)


@dataclass(eq=False)
class Node:
    order: NodeOrder
    stored_labels: frozenset[str]
    online: bool = False
    cause: str | None = None
    work: Work | None = None
    accepting: bool = True
    barred: bool = False
    started: bool = False
    finished: bool = False
    known: bool = True
    connects_at_s: float | None = None
    cut_off_at_s: float | None = None
    dialled: bool = False


class FakeJenkins:
    """One controller that keeps the `Controller` protocol."""

    def __init__(
        self, clock: VirtualClock, *engines: FakeEngine, mode: BridgeMode = BridgeMode.SCRIPT, name: str = "main"
    ) -> None:
        self.clock = clock
        self.engines = engines
        self.name = name
        self.mode = mode
        self.session = 1
        self.works: list[Work] = []
        self.items: dict[int, Work] = {}
        self.nodes: dict[str, Node] = {}
        self.entries: set[str] = set()  # agents with a credentials entry
        self.fates: dict[RequestKey, FateOf] = {}
        self.registered: list[str] = []
        self.told: list[tuple[str, ...]] = []
        self.history: list[Observation] = []
        self.calls: dict[str, int] = {}
        # what a test turns
        self.connect_s = 2.0
        self.down: ControllerError | None = None
        self.quieting = False
        self.mute = False
        self.held: list[Observation] | None = None
        self.static_serves = False
        self.never_connects: set[str] = set()
        self._news: asyncio.Queue[Observation] = asyncio.Queue()
        self._polled: set[str] = set()
        self._excused: set[str] = set()
        self._next_id = 1
        self._entered_ms = 1_000_000

    # people

    def queue(self, label: str = "maven", kind: ItemKind = ItemKind.FREESTYLE, build_s: float = 5.0) -> Work:
        work = Work(number=len(self.works), kind=kind, label=label, build_s=build_s, item=None)
        self.works.append(work)
        self._enter(work, label)
        return work

    def _enter(self, work: Work, label: str) -> None:
        self._entered_ms += 1
        task = f"job/{work.number}/" + ("1/" if work.kind is ItemKind.PIPELINE else "")
        key = RequestKey(controller=self.name, queue_id=self._next_id, since_ms=self._entered_ms, task=task)
        self._next_id += 1
        work.item = QueueItem(
            key=key,
            kind=work.kind,
            job=str(work.number),
            label=label,
            build_url=task if work.kind is ItemKind.PIPELINE else None,
            buildable_ms=key.since_ms,
        )
        self.items[key.queue_id] = work
        self.fates[key] = FateOf(fate=Fate.WAITING)
        self._tell(ItemBuildable(item=work.item))

    def cancel(self, work: Work) -> None:
        if work.item is not None and work.node is None and not work.starts:
            work.ended.append("cancelled")
            self._leave(work, FateOf(fate=Fate.CANCELLED))

    def take_elsewhere(self, work: Work) -> None:
        """A static node has it."""
        if work.item is not None and not work.starts:
            work.starts.append("static")
            work.ended.append("ran elsewhere")
            self._leave(work, FateOf(fate=Fate.STARTED, building=True, node="static"))

    def edit_label(self, work: Work, label: str) -> None:
        """Somebody saves its job with another label; no event tells so, the next whole look does."""
        if work.item is not None and not work.starts and work.kind is ItemKind.FREESTYLE:
            work.label, work.item = label, replace(work.item, label=label)

    def excuse(self, name: str) -> None:
        """What runs on a node, waits to go on there, or still gets there, may be cut: not the sidecar's doing."""
        self._excused.add(name)
        for work in self.works:
            if work.node == name or (work.item is not None and work.starts and work.item.label == name):
                work.may_be_cut = True

    def delete_node(self, name: str) -> None:
        self.excuse(name)
        node = self.nodes.pop(name)
        if node.work is not None:
            self._end(node, "cut by a person")

    def restart(self, *, crash: bool = False) -> None:
        """Agents are cut off; freestyle builds die, Pipelines come back; after a crash the queue is forgotten."""
        self.session += 1
        self.quieting = False
        waiting = [w for w in self.works if w.item is not None]
        if crash:
            self._next_id = max(1, self._next_id - 3)
            self.items.clear()
        self.fates = {} if crash else {w.item.key: FateOf(fate=Fate.WAITING) for w in waiting if w.item}
        for work in waiting if crash else ():
            label, work.item = work.item.label if work.item else None, None
            if work.kind is ItemKind.PIPELINE:
                self._enter(work, label or work.label)
            else:
                work.ended.append("forgotten by the controller")
        for name, node in self.nodes.items():
            had, node.work = node.work, None
            node.online, node.connects_at_s, node.started, node.finished = False, None, False, False
            node.known = self.mode is BridgeMode.OFF
            if had is None:
                continue
            had.node = None
            if had.kind is ItemKind.PIPELINE:
                self._enter(had, name)
            else:
                had.ended.append("died with the controller")
        self._polled.clear()
        self._snap()

    def change_mode(self, mode: BridgeMode) -> None:
        """The controller comes up again without its bridge, or with it."""
        self.mode = mode
        self.restart()

    def outage(self, error: ControllerError | None = None) -> None:
        self.down = error or ControllerError("connection refused", retryable=True)
        self._news.put_nowait(Unreachable(message=self.down.message))

    def recover(self) -> None:
        self.down = None
        self._snap()

    # events in another order than they happened

    def hold_events(self) -> None:
        self.held = self.held if self.held is not None else []

    def let_events_go(self, order: Sequence[int] = ()) -> None:
        held, self.held = self.held or [], None
        told = [held[i % len(held)] for i in order if held] + held[:0]
        for seen in (*told, *(e for e in held if e not in told)):
            self._tell(seen)

    # the laws

    async def live(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(_TICK_S)

    def tick(self) -> None:
        now = self.clock.monotonic()
        for name, node in list(self.nodes.items()):
            self._connection(name, node, now)
        for work in list(self.items.values()):
            self._resumption(work, now)
        for name, node in list(self.nodes.items()):
            if node.work is not None and node.work.ends_at_s <= now:
                self._finish(name, node)
            elif node.work is None and node.online and not self.quieting:
                self._dispatch(name, node, now)

    def _resumption(self, work: Work, now: float) -> None:
        """A Pipeline that waits for a node that is gone is given up."""
        if not work.starts or work.item is None or work.item.label in self.nodes:
            work.given_up_at_s = None
        elif work.given_up_at_s is None:
            work.given_up_at_s = now + _GIVEN_UP_AFTER_S
        elif now >= work.given_up_at_s:
            work.ended.append("cut as allowed" if work.may_be_cut else "lost: its node is gone and it cannot go on")
            self._leave(work, FateOf(fate=Fate.CANCELLED))

    def _alive(self, name: str) -> bool:
        found = [e.instances[name] for e in self.engines if name in e.instances]
        return any(i.status.state is InstanceState.RUNNING for i in found)

    def _connection(self, name: str, node: Node, now: float) -> None:
        if not self._alive(name):
            node.connects_at_s = None
            if node.online:
                self.disconnect(name, "its process ended")
            if node.work is not None:
                self._end(node, "lost: its instance went")
                self._tell(BuildFinished(name=name, queue_id=None, failed=True, lost=True))
            return
        if node.online or name in self.never_connects:
            node.cut_off_at_s = None
            return
        node.cut_off_at_s = now if node.cut_off_at_s is None else node.cut_off_at_s
        if now - node.cut_off_at_s > CUT_OFF_S - 2 * _SNAPSHOT_EVERY_S:
            self.excuse(name)  # who does not come back for so long is given up
        if node.order.launcher is Launcher.SSH and not node.dialled:
            return  # nobody has told the controller yet whom to dial
        if node.connects_at_s is None:
            node.connects_at_s = now + self.connect_s
        if now >= node.connects_at_s and self.down is None:
            node.online, node.cause = True, None
            self._tell(NodeOnline(name=name))

    def disconnect(self, name: str, cause: str = "the connection broke") -> None:
        node = self.nodes[name]
        node.online, node.cause, node.connects_at_s = False, cause, None
        self._tell(NodeOffline(name=name, cause=cause))

    def _dispatch(self, name: str, node: Node, now: float) -> None:
        work = next((w for w in self.items.values() if w.item and w.item.label == name), None)
        if work is not None and self.mode is BridgeMode.OFF and node.barred:
            return  # closed when its build began; it has to be let in
        if work is None:
            work = self._may_take(node)
        if work is None or work.item is None:
            return
        resumes = bool(work.starts)
        if not resumes:
            work.starts.append(name)
            work.ends_at_s = now + work.build_s
        key = work.item.key
        url = f"job/{work.number}/1/"
        node.work, work.node = work, name
        work.may_be_cut = work.may_be_cut or name in self._excused
        node.started = True
        if self.mode is not BridgeMode.OFF:
            node.accepting = False
        elif resumes:
            node.barred, node.accepting = True, False
        self._leave(work, FateOf(fate=Fate.STARTED, build_url=url, building=True, node=name))
        queue_id = key.queue_id if work.kind is not ItemKind.PIPELINE or self.mode is not BridgeMode.OFF else None
        self._tell(BuildStarted(name=name, queue_id=queue_id, build_url=url))

    def _may_take(self, node: Node) -> Work | None:
        if node.barred or not node.accepting:
            return None
        if self.mode is not BridgeMode.OFF:
            wanted = node.order.request
            if not node.known or node.started or node.finished or wanted is None:
                return None
            work = self.items.get(wanted.key.queue_id)
            own = work and work.item and work.item.key == wanted.key and work.label in node.order.labels
            return work if own else None
        return next((w for w in self.items.values() if w.item and w.item.label in node.stored_labels), None)

    def _finish(self, name: str, node: Node) -> None:
        work = node.work
        assert work is not None
        self._end(node, "ran")
        self._tell(BuildFinished(name=name, queue_id=None))

    def _end(self, node: Node, how: str) -> None:
        work, node.work = node.work, None
        assert work is not None
        work.node = None
        node.finished = True
        work.ended.append("cut as allowed" if how != "ran" and work.may_be_cut else how)
        for key, fate in self.fates.items():
            if key.task.startswith(f"job/{work.number}/") and fate.fate is Fate.STARTED:
                self.fates[key] = replace(fate, building=False)

    def _leave(self, work: Work, fate: FateOf) -> None:
        assert work.item is not None
        key, work.item = work.item.key, None
        self.items.pop(key.queue_id, None)
        self.fates[key] = fate
        cancelled = fate.fate is Fate.CANCELLED
        self._tell(ItemLeft(queue_id=key.queue_id, since_ms=key.since_ms, cancelled=cancelled, node=fate.node))

    # what it shows

    @property
    def info(self) -> ControllerInfo:
        return ControllerInfo(
            name=self.name,
            version="2.460",
            session=str(self.session),
            mode=self.mode,
            user="provisioner",
            quieting_down=self.quieting,
        )

    def _tell(self, seen: Observation) -> None:
        if self.mode is BridgeMode.OFF or self.mute or self.down is not None:
            return
        if self.held is not None:
            self.held.append(seen)
            return
        self.history.append(seen)
        self._news.put_nowait(seen)

    def repeat(self, seen: Observation) -> None:
        """An event that was told is told again, however old it is."""
        if self.mode is not BridgeMode.OFF and self.down is None:
            self._news.put_nowait(seen)

    def _snap(self) -> None:
        if self.down is None and self.mode is not BridgeMode.OFF:
            self._news.put_nowait(self.look())

    def look(self, *, complete: bool = True) -> Snapshot:
        return Snapshot(info=self.info, items=self._waiting(), nodes=self._views(), complete=complete)

    def _waiting(self) -> tuple[QueueItem, ...]:
        return tuple(w.item for w in self.items.values() if w.item)

    def _views(self) -> tuple[NodeView, ...]:
        return tuple(self._view(name, node) for name, node in self.nodes.items())

    def _view(self, name: str, node: Node) -> NodeView:
        busy, started, finished = node.work is not None, node.started, node.finished
        if self.mode is BridgeMode.OFF:  # REST knows only what this very sidecar's polls saw
            if busy:
                self._polled.add(name)
            started = name in self._polled
            finished = started and not busy
        work = node.work
        return NodeView(
            name=name,
            online=node.online,
            busy=busy,
            build_url=f"job/{work.number}/1/" if work else None,
            queue_id=self._queue_id(work, name) if work else None,
            offline_cause=node.cause,
            accepting=node.accepting,
            connected=node.online or self.mode is BridgeMode.OFF,
            started_once=started,
            finished=finished,
            known=node.known,
        )

    def _queue_id(self, work: Work, name: str) -> int | None:
        if work.kind is ItemKind.PIPELINE and self.mode is BridgeMode.OFF:
            return None
        keys = [k for k, f in self.fates.items() if f.node == name and k.task.startswith(f"job/{work.number}/")]
        return keys[-1].queue_id if keys else None

    # the protocol

    async def open(self) -> ControllerInfo:
        self._call("open")
        return self.info

    async def close(self) -> None:
        return None

    async def watch(self) -> AsyncIterator[Observation]:
        self._polled.clear()
        self._news = asyncio.Queue()
        while True:
            if self.down is not None:
                yield Unreachable(message=self.down.message)
                await asyncio.sleep(_POLL_S)
            elif self.mode is BridgeMode.OFF:
                async for seen in self._poll():
                    yield seen
            else:
                yield self.look()
                async for seen in self._follow():
                    yield seen

    async def _poll(self) -> AsyncIterator[Observation]:
        nodes, session = self._views(), self.session
        await asyncio.sleep(0.1)  # two requests: what happens between them makes them disagree
        yield (
            Unreachable(message=self.down.message if self.down else "it is starting")
            if self.down is not None or self.session != session  # nobody starts so fast that both are answered
            else Snapshot(info=self.info, items=self._waiting(), nodes=nodes)
        )
        await asyncio.sleep(_POLL_S)

    async def _follow(self) -> AsyncIterator[Observation]:
        until = self.clock.monotonic() + _SNAPSHOT_EVERY_S
        while self.mode is not BridgeMode.OFF and self.down is None:
            try:
                async with asyncio.timeout(max(0.0, until - self.clock.monotonic())):
                    seen = await self._news.get()
            except TimeoutError:
                return
            yield seen

    async def snapshot(self) -> Snapshot:
        self._call("snapshot")
        return self.look()

    async def register(self, order: NodeOrder) -> Registration:
        self._call("register")
        if order.name not in self.nodes:
            stored = order.labels if self.mode is BridgeMode.OFF else ()
            self.nodes[order.name] = Node(order=order, stored_labels=frozenset(stored))
        self.registered.append(order.name)
        return Registration(secret=f"secret of {order.name}")

    async def adopt(self, order: NodeOrder) -> bool:
        self._call("adopt")
        node = self.nodes.get(order.name)
        if node is None:
            return False
        if not node.known and self.mode is not BridgeMode.OFF:
            node.order, node.known = order, True
            node.started = order.started or node.work is not None
        return True

    async def dial(self, order: NodeOrder, dial: Dial) -> None:
        self._call("dial")
        if self.mode is BridgeMode.OFF:  # entry first, and a node that is missing is made
            self.entries.add(order.name)
            self.nodes.setdefault(order.name, Node(order=order, stored_labels=frozenset(order.labels)))
        elif order.name not in self.nodes:
            raise ControllerError(f"there is no node {order.name}", code=410)
        self.entries.add(order.name)
        self.nodes[order.name].dialled = True

    async def credentials(self) -> tuple[str, ...]:
        self._call("credentials")
        return tuple(sorted(self.entries))

    async def remove_credentials(self, name: str) -> None:
        self._call("remove_credentials")
        self.entries.discard(name)

    async def launch_tail(self, name: str, lines: int = 20) -> tuple[str, ...]:
        self._call("launch_tail")
        return ()

    async def remove(self, name: str, lines: Sequence[str] = (), *, credentials: bool = False) -> None:
        self._call("remove")
        if credentials:
            self.entries.discard(name)
        node = self.nodes.pop(name, None)
        if node is not None and node.work is not None:
            self._end(node, "lost: its node was removed under it")

    async def tell(self, name: str | None, request: QueueItem | None, lines: Sequence[str]) -> None:
        self._call("tell")
        self.told.append(tuple(lines))

    async def bar(self, name: str) -> None:
        self._call("bar")
        node = self.nodes.get(name)
        if node is None:
            raise ControllerError(f"there is no node {name}", code=404)
        node.barred, node.accepting = True, False

    async def let_return(self, name: str) -> None:
        self._call("let_return")
        node = self.nodes.get(name)
        if node is None:
            raise ControllerError(f"there is no node {name}", code=404)
        if self.mode is BridgeMode.OFF:
            node.barred, node.accepting = False, True

    async def fail(self, request: QueueItem, reason: str, message: str, lines: Sequence[str]) -> FailOutcome:
        self._call("fail")
        work = self.items.get(request.key.queue_id)
        if work is None or work.item is None or work.item.key != request.key:
            return FailOutcome.GONE
        if self.static_serves:
            return FailOutcome.SPARED
        work.ended.append(f"ended: {reason}")
        self._leave(work, FateOf(fate=Fate.CANCELLED))
        return FailOutcome.NOT_BUILT

    async def give(self, name: str, request: QueueItem) -> None:
        self._call("give")
        node = self.nodes.get(name)
        if self.mode is BridgeMode.OFF or node is None or not node.known:
            raise ControllerError(f"node {name} is not known to the bridge", code=410)
        if node.order.request is None:
            node.order = replace(node.order, request=request)
        elif node.order.request.key != request.key:
            raise AssertionError(f"{name} is given a second item")

    async def others(self, request: QueueItem) -> bool:
        self._call("others")
        return self.static_serves and self.mode is not BridgeMode.OFF

    async def fate(self, key: RequestKey) -> FateOf:
        self._call("fate")
        return self.fates.get(key, FateOf(fate=Fate.UNKNOWN))

    async def outcome(self, build_url: str) -> str | None:
        self._call("outcome")
        return None

    async def agent_port(self, agent_url: str) -> AgentPort:
        return AgentPort(host="c", port=50000)

    async def agent_jar(self) -> bytes:
        self._call("agent_jar")
        return b"jar"

    def requests_made(self) -> Mapping[tuple[str, str], int]:
        return {}

    def _call(self, op: str) -> None:
        self.calls[op] = self.calls.get(op, 0) + 1
        if self.down is not None:
            raise self.down
