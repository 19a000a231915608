"""A request's record: a queue item that some template serves, until it left the queue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from provisioner.model.errors import Reason
from provisioner.model.queue import QueueItem


class RequestState(StrEnum):
    """Where a request is."""

    WAITING = "waiting"  # no agent is coming; the planner looks at it
    SERVED = "served"  # an agent is coming or there
    FAILING = "failing"  # it cannot be served; the controller is being told, again until it took it
    DONE = "done"  # it left the queue: started, cancelled or ended by us


REQUEST_MOVES: dict[RequestState, frozenset[RequestState]] = {
    RequestState.WAITING: frozenset({RequestState.SERVED, RequestState.FAILING, RequestState.DONE}),
    RequestState.SERVED: frozenset({RequestState.WAITING, RequestState.FAILING, RequestState.DONE}),
    # back to waiting when another node or cloud could still serve it, so that it was spared
    RequestState.FAILING: frozenset({RequestState.DONE, RequestState.WAITING}),
    RequestState.DONE: frozenset(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request. `attempts` counts the launches that failed by a fault that may be the build's."""

    item: QueueItem
    state: RequestState
    template: str
    first_seen: datetime
    attempts: int = 0
    reason: Reason | None = None
    detail: str = ""
    tail: tuple[str, ...] = ()
    not_before: datetime | None = None  # do not place it again before this time
    world_faults: int = 0  # launches in a row that failed by the world's fault; they lengthen the pause
    agent: str | None = None
    failed_at: tuple[str, ...] = ()  # providers at which a launch failed, latest last: others are tried first
