"""The build queue: waiting, blocked, buildable, left."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from standin.labels import Label
from standin.nodes import Executor, Node, now_ms

LEFT_KEPT_S = 300.0


class Phase(StrEnum):
    """Where an item is."""

    WAITING = "waiting"  # in its quiet period
    BLOCKED = "blocked"  # another build of a job that allows one at a time
    BUILDABLE = "buildable"
    LEFT = "left"


class Task(Protocol):
    """What stands in the queue."""

    @property
    def kind(self) -> str:
        """`freestyle`, `pipeline` (a node step) or `run` (a Pipeline job, which needs no node)."""
        ...

    @property
    def url(self) -> str:
        """Below the controller, no leading slash."""
        ...

    @property
    def job_name(self) -> str: ...

    @property
    def label(self) -> Label | None: ...

    def start(self, item: Item, executor: Executor | None) -> Any:
        """Begin on an executor; gives what the item's `executable` shows."""
        ...

    def blocked_by(self) -> str | None: ...


@dataclass(eq=False, slots=True)
class Item:
    """One queue item."""

    id: int
    task: Task
    params: Mapping[str, str]
    causes: list[Mapping[str, str]]
    since_ms: int
    phase: Phase = Phase.WAITING
    order: int = 0
    due_ms: int = 0
    buildable_ms: int | None = None
    only_node: str | None = None  # a Pipeline block that goes on after a restart goes on where it was
    cancelled: bool = False
    executable: Any = None
    node: Node | None = None
    left_at: float = 0.0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def label(self) -> Label | None:
        return self.task.label

    @property
    def key(self) -> tuple[int, int]:
        return self.id, self.since_ms


class Queue:
    """Items by id, and the buildable ones by label."""

    def __init__(self, on_buildable: Callable[[Item], None]) -> None:
        self.items: dict[int, Item] = {}
        self.left: OrderedDict[int, Item] = OrderedDict()
        self.by_label: dict[str, OrderedDict[int, Item]] = {}
        self.compound: dict[str, Label] = {}  # the labels in use that are more than one atom
        self.next_id = 1
        self._same: dict[Any, Item] = {}
        self._order = itertools.count(1)
        self._on_buildable = on_buildable

    def schedule(
        self,
        task: Task,
        params: Mapping[str, str],
        causes: Iterable[Mapping[str, str]],
        quiet_s: float = 0.0,
        only_node: str | None = None,
    ) -> Item:
        """Queue a task; the same one with the same parameters gets the item that is there."""
        same = (task.url, tuple(sorted(params.items())))
        found = self._same.get(same) if task.kind != "pipeline" else None
        if found is not None:
            found.causes.extend(causes)
            return found
        item = Item(self.next_id, task, dict(params), list(causes), now_ms(), only_node=only_node)
        self.next_id += 1
        self.items[item.id] = item
        self._same[same] = item
        if quiet_s > 0:
            item.due_ms = item.since_ms + int(quiet_s * 1000)
            item.timer = asyncio.get_running_loop().call_later(quiet_s, self.release, item)
        else:
            self.release(item)
        return item

    def release(self, item: Item) -> None:
        """End of the quiet period or of the block."""
        if item.phase not in (Phase.WAITING, Phase.BLOCKED):
            return
        item.timer = None
        # as on a real controller: the end of the quiet period, also of one that is blocked then and becomes buildable
        item.buildable_ms = item.buildable_ms or now_ms()
        if item.task.blocked_by():
            item.phase = Phase.BLOCKED
            return
        item.phase = Phase.BUILDABLE
        item.order = next(self._order)
        label = item.label
        key = "" if label is None else label.name
        self.by_label.setdefault(key, OrderedDict())[item.id] = item
        if label is not None and label.atom is None:
            self.compound[key] = label
        self._on_buildable(item)

    def leave(self, item: Item, node: Node | None, cancelled: bool = False) -> None:
        if item.timer:
            item.timer.cancel()
            item.timer = None
        if item.phase is Phase.BUILDABLE:
            self._unlist(item)
        item.phase = Phase.LEFT
        item.node = node
        item.cancelled = cancelled
        item.left_at = time.monotonic()
        self._forget(item)
        self.left[item.id] = item
        while self.left:
            oldest = next(iter(self.left.values()))
            if oldest.left_at > item.left_at - LEFT_KEPT_S:
                break
            del self.left[oldest.id]

    def lose(self, item: Item) -> None:
        """Drop an item as a killed controller does: as if it had never been."""
        if item.timer:
            item.timer.cancel()
        if item.phase is Phase.BUILDABLE:
            self._unlist(item)
        item.phase = Phase.LEFT
        self._forget(item)

    def find_left(self, item_id: int) -> Item | None:
        item = self.left.get(item_id)
        if item is None or item.left_at < time.monotonic() - LEFT_KEPT_S:
            return None
        return item

    def buildable(self) -> Iterator[Item]:
        return (i for i in self.items.values() if i.phase is Phase.BUILDABLE)

    def head(self, label_name: str) -> Item | None:
        """The oldest buildable item of a label."""
        found = self.by_label.get(label_name)
        return next(iter(found.values())) if found else None

    def unblock(self, task: Task) -> None:
        for item in [i for i in self.items.values() if i.phase is Phase.BLOCKED and i.task is task]:
            self.release(item)

    def _unlist(self, item: Item) -> None:
        label = item.label
        key = "" if label is None else label.name
        found = self.by_label.get(key)
        if found:
            found.pop(item.id, None)
            if not found:
                del self.by_label[key]
                self.compound.pop(key, None)

    def _forget(self, item: Item) -> None:
        if self.items.get(item.id) is item:
            del self.items[item.id]
        same = (item.task.url, tuple(sorted(item.params.items())))
        if self._same.get(same) is item:
            del self._same[same]
