"""The twin of the product's bridge: what it knows, what it tells, whom it lets take what."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from standin.bridge_console import Pad
from standin.nodes import Node, now_ms
from standin.queue import Item, Phase

if TYPE_CHECKING:
    from standin.work import Work
    from standin.world import World

VERSION = "1.2.0"
PROTOCOL = 1
MARK = "jenkins-provisioner.owner="
MOST_EVENTS = 5000
MOST_READERS = 32
LISTENERS = ("queue", "executor", "computer", "node", "run", "label", "dispatcher")


@dataclass(eq=False, slots=True)
class Known:
    """One node of ours as this installation knows it."""

    name: str
    owner: str
    pad: Pad
    request: tuple[int, int] | None = None
    started: bool = False
    finished: bool = False
    barred: bool = False
    running_id: int | None = None
    build_url: str | None = None
    registered_ms: int = field(default_factory=now_ms)
    online_ms: int = 0
    started_ms: int = 0

    @property
    def takes(self) -> tuple[int, int] | None:
        """The one item that it may take now."""
        return None if self.started or self.finished or self.barred else self.request


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; for everybody where `owner` is None. An item is shown to each reader in its own way."""

    seq: int
    owner: str | None
    fields: Mapping[str, Any]
    item: Item | None = None


def mark(owner: str, name: str) -> str:
    return f"{MARK}{owner} jenkins-provisioner.agent={name}"


def is_marked(node: Node, owner: str | None = None) -> bool:
    return (node.description or "").startswith(MARK if owner is None else f"{MARK}{owner} ")


def seconds(ms: int) -> str:
    return f"{ms / 1000:.1f} s"


class Bridge:
    """One installation."""

    def __init__(self, world: World, parameters: Mapping[str, Any], before: Bridge | None = None) -> None:
        self.world = world
        self.mode = str(parameters.get("mode", "script"))
        self.content = parameters.get("content")
        self.user = parameters.get("user")
        self.owners: list[str] | None = parameters.get("owners")
        self.epoch = str(uuid.uuid4())
        self.known: dict[str, Known] = dict(before.known) if before else {}
        self.names: dict[str, tuple[str, ...]] = dict(before.names) if before else {}
        self.pads: dict[tuple[int, int], Pad] = dict(before.pads) if before else {}
        self.by_request: dict[tuple[int, int], Known] = dict(before.by_request) if before else {}
        # by owner: who works under it, and when it was last heard of
        self.holders: dict[str, tuple[str, float]] = dict(before.holders) if before else {}
        self.readers = 0
        self.events_lost = 0
        self.stopped = False
        self.seq = 0
        self._ring: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._news = asyncio.Event()

    def stop(self) -> None:
        """Out of the controller: readers are told to begin again."""
        self.stopped = True
        self._wake()

    def hold(self, owner: str, holder: str) -> str | None:
        """One provisioner at a time for each owner id; why this one must wait, if it must."""
        now = time.monotonic()
        other, heard_s = self.holders.get(owner, (holder, now))
        if other != holder and now - heard_s < self.world.knobs.holder_gone_s:
            return (
                f"another provisioner with the id {owner} is at work here; "
                "stop one of the two, or give each an id of its own"
            )
        self.holders[owner] = (holder, now)
        return None

    def others(self, owner: str, holder: str) -> list[str]:
        """Owner ids under which somebody else is at work."""
        heard = time.monotonic() - self.world.knobs.holder_gone_s
        return sorted(
            name
            for name, (who, heard_s) in self.holders.items()
            if heard_s > heard and not (name == owner and holder in ("", who))
        )

    # --- events ---

    def emit(self, kind: str, owner: str | None, item: Item | None = None, **fields: Any) -> None:
        self.seq += 1
        self._ring.append(Event(self.seq, owner, {"type": kind, **fields}, item))
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def read(self, owner: str, epoch: str, since: int, wait_s: float) -> dict[str, Any]:
        """What is newer than `since`; waits for something if there is nothing."""
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            oldest = self._ring[0].seq if self._ring else self.seq + 1
            if epoch != self.epoch or self.stopped or since > self.seq or since < oldest - 1:
                return {"resync": True, "epoch": self.epoch, "seq": self.seq}
            news = self._news
            # everything from `since` on stands at the end of the ring
            fresh = [self._ring[i] for i in range(since + 1 - oldest, len(self._ring))] if self._ring else []
            shown = [self._shown(e, owner) for e in fresh if e.owner in (None, owner)]
            since = self.seq
            if shown:
                return {"epoch": self.epoch, "seq": self.seq, "events": shown}
            try:
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            except TimeoutError:
                return {"epoch": self.epoch, "seq": self.seq, "events": []}

    def _shown(self, event: Event, owner: str) -> dict[str, Any]:
        out = {"seq": event.seq, **event.fields}
        if event.item is not None:
            out["item"] = self.item_json(event.item, owner)
        return out

    def item_json(self, item: Item, owner: str) -> dict[str, Any]:
        task = item.task
        pipeline = task.kind == "pipeline"
        params = task.run.build.params if pipeline else item.params  # type: ignore[attr-defined]
        return {
            "id": item.id,
            "since_ms": item.since_ms,
            "buildable_ms": item.buildable_ms,
            "task": task.url,
            "job": task.job_name,
            "kind": "pipeline" if pipeline else "freestyle",
            "label": None if item.label is None else item.label.name,
            "build_url": task.url if pipeline else None,
            "why": self.world.why(item),
            "causes": [c["shortDescription"] for c in (task.run.build.causes if pipeline else item.causes)],  # type: ignore[attr-defined]
            "parameters": {n: params[n] for n in self.names.get(owner, ()) if n in params},
        }

    def snapshot(self, owner: str) -> dict[str, Any]:
        world = self.world
        items = [
            i
            for i in world.queue.items.values()
            if i.task.kind != "run" and (i.phase is Phase.BUILDABLE or i.key in self.by_request)
        ]
        return {
            "epoch": self.epoch,
            "seq": self.seq,
            "session": world.session,
            "version": world.version,
            "bridge": VERSION,
            "mode": self.mode,
            "quieting_down": world.quieting,
            "items": [self.item_json(i, owner) for i in items],
            "nodes": [self._node_json(n) for n in world.nodes.by_name.values() if is_marked(n, owner)],
        }

    def _node_json(self, node: Node) -> dict[str, Any]:
        known = self.known.get(node.name)
        work: Work | None = next((e.work for e in node.executors if e.work is not None), None)
        return {
            "name": node.name,
            "online": node.online,
            "busy": work is not None,
            "accepting": node.accepting,
            "connected": node.link is not None,
            "started": known is not None and known.started,
            "finished": known is not None and known.finished,
            "queue_id": work.item.id if work else None,
            "build_url": work.build.url if work else None,
            "offline_cause": node.offline_cause.reason if node.offline_cause else None,
            "known": known is not None,
        }

    # --- dispatching ---

    def item_for(self, node: Node) -> Item | None:
        """What a bound node may take now."""
        known = self.known.get(node.name)
        if known is None or known.takes is None:
            return None
        item = self.world.queue.items.get(known.takes[0])
        return item if item is not None and item.key == known.takes else None

    def node_for(self, item: Item) -> Node | None:
        """The node that waits for this item."""
        known = self.by_request.get(item.key)
        if known is None or known.takes != item.key:
            return None
        return self.world.nodes.get(known.name)

    def pad_of(self, request: tuple[int, int]) -> Pad:
        """Where a request's launch log goes; made at the first line."""
        pad = self.pads.get(request)
        if pad is not None:
            return pad
        item = self.world.queue.items.get(request[0])
        if item is None or item.key != request:
            return Pad()
        block = item.task if item.task.kind == "pipeline" else None
        pad = self.pads[request] = Pad(block)
        return pad

    def dedicate(self, known: Known, request: tuple[int, int]) -> None:
        pad = self.pad_of(request)
        if pad is not known.pad:
            pad.add(known.pad.drain())
            known.pad = pad
        if known.request is not None:
            self.by_request.pop(known.request, None)
        known.request = request
        self.by_request[request] = known

    def forget(self, known: Known) -> None:
        self.known.pop(known.name, None)
        if known.request is not None and self.by_request.get(known.request) is known:
            del self.by_request[known.request]
            if known.request[0] not in self.world.queue.items:
                self.pads.pop(known.request, None)

    def begin(self, known: Known, work: Work) -> None:
        """A node of ours has taken a task: it takes no other."""
        known.started = True
        known.finished = False
        known.running_id = work.item.id
        known.started_ms = known.started_ms or now_ms()
        known.build_url = work.build.url
        if work.executor is not None:
            work.executor.node.accepting = False
        self.emit("started", known.owner, node=known.name, queue_id=work.item.id, build_url=work.build.url)

    # --- what the world tells ---

    def on_buildable(self, item: Item) -> None:
        self.emit("buildable", None, item)

    def on_left(self, item: Item) -> None:
        name = None if item.node is None else item.node.name
        if item.executable is not None and item.node is None:
            name = ""
        if name is None or name not in self.known:
            self.pads.pop(item.key, None)
        self.emit("left", None, id=item.id, since_ms=item.since_ms, cancelled=item.cancelled, node=name)

    def on_started(self, work: Work) -> None:
        assert work.executor is not None
        known = self.known.get(work.executor.node.name)
        if known is None:
            return
        self.begin(known, work)
        if work.kind == "freestyle":
            known.pad.attach(work.build)

    def on_finished(self, work: Work) -> None:
        known = self.known.get(work.record["node"])
        if known is None:
            return
        known.finished = True
        if work.kind == "pipeline" and not self.world.closing:
            self.before_end(work)
        failed = work.kind == "freestyle" and work.build.result == "FAILURE"
        node = self.world.nodes.get(known.name)
        lost = node is None or not node.connected
        self.emit("finished", known.owner, node=known.name, queue_id=known.running_id, failed=failed, lost=lost)

    def on_online(self, node: Node) -> None:
        known = self.known.get(node.name)
        if known is None:
            return
        if not known.online_ms:
            known.online_ms = now_ms()
            took = f" {seconds(known.online_ms - known.registered_ms)} after its registration"
            known.pad.add([f"Agent {known.name} connected{took if known.registered_ms else ''}"])
        self.emit("online", known.owner, node=known.name)

    def on_offline(self, node: Node, cause: str) -> None:
        known = self.known.get(node.name)
        if known is not None:
            self.emit("offline", known.owner, node=known.name, cause=cause)

    def on_gone(self, node: Node) -> None:
        known = self.known.get(node.name)
        if known is not None:
            self.emit("gone", known.owner, node=known.name)
            self.forget(known)

    def on_quiet(self, on: bool) -> None:
        self.emit("quiet", None, on=on)

    def before_end(self, work: Work) -> None:
        """The last line about the agent in the console."""
        known = self.known.get(work.record["node"])
        if known is None:
            return
        line = f"Agent {known.name} is done"
        if known.registered_ms and known.online_ms:
            line += (
                f": connected in {seconds(known.online_ms - known.registered_ms)}, "
                f"build taken in {seconds(max(0, known.started_ms - known.online_ms))}, "
                f"ran for {seconds(now_ms() - known.started_ms)}"
            )
        known.pad.add([line])


def lines_of(value: Iterable[Any]) -> list[str]:
    return [str(line) for line in value]
