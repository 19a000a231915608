"""What a controller's queue tells: items, and the key under which a request is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ItemKind(StrEnum):
    """What stands in the queue; it decides how its console is reached and how it is ended."""

    FREESTYLE = "freestyle"  # also matrix and every other task whose build record is made by its node
    PIPELINE = "pipeline"  # the `node` step of a run that is already under way
    OTHER = "other"  # a task that makes no build record at all


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestKey:
    """Names one queue item for ever; queue ids come again after a controller was killed.

    The session is told apart because a new session may hand out old ids; an item that the
    controller carries over a clean restart keeps its id, entry time and task, so two keys
    that differ only in session are the same request (`same_item`).
    """

    controller: str
    queue_id: int
    since_ms: int  # the item's `inQueueSince`, milliseconds since the epoch, the controller's clock
    task: str  # the task's URL below the controller, e.g. `job/team/job/app/`

    def __str__(self) -> str:
        return f"{self.controller}/{self.queue_id}/{self.since_ms}/{self.task}"


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueItem:
    """One buildable item of a controller's queue."""

    key: RequestKey
    kind: ItemKind
    job: str  # full name, folders with slashes; for a Pipeline the run's job
    label: str | None  # label expression as Jenkins prints it; None: any node
    build_url: str | None = None  # relative; known for a Pipeline only, its run is under way
    why: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    buildable_ms: int | None = None  # when it became buildable, the controller's clock
    causes: tuple[str, ...] = ()  # who or what started the build, in the controller's words


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """One of our nodes as the controller shows it."""

    name: str
    online: bool
    busy: bool  # an executor runs something
    queue_id: int | None = None  # of what it runs now, if the controller tells
    build_url: str | None = None  # of what it runs now
    offline_cause: str | None = None
    accepting: bool = True
    started_once: bool = False  # the bridge saw it take a build
    finished: bool = False  # the bridge saw that build end
    connected: bool = True  # its agent holds a connection, also where a person took the node offline
    known: bool = True  # False: this bridge has not been told about it yet and it must be adopted
