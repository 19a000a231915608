"""What is known of a static node and of the agent that it is reserved for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """Who has reserved a node, and for which queue item."""

    agent: str
    owner: str
    queue_id: int
    since_ms: int
    labels: tuple[str, ...] = ()  # what the node answers to beside its own, until the item has begun
    taken: bool = False  # the item runs there, or ran
    finished: bool = False  # it has ended


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticNode:
    """A node that is looked after, at one moment."""

    name: str
    labels: frozenset[str]
    online: bool
    unfit: str  # why it cannot be reserved now, to stand after its name; empty: it can
    seat: Seat | None = None
    busy: bool = False  # what it is reserved for runs on it, or, where that cannot be told, anything does
    queue_id: int | None = None  # of what runs
    build_url: str | None = None  # of what runs, as the controller writes it
    offline_cause: str = ""


class Seats(Protocol):
    """How nodes are reserved. Each call is one step that another of us may have done already."""

    #: Whether a reserved node takes nothing but its item.
    exclusive: bool

    def look(self) -> tuple[StaticNode, ...]:
        """Every node that is looked after."""
        ...

    def reserve(self, node: str, seat: Seat, lines: Sequence[str]) -> str:
        """Reserve a node; empty: it is, for this agent. Else why it is not, and nothing was changed."""
        ...

    def say(self, node: str, agent: str, lines: Sequence[str]) -> None:
        """Further lines for the top of the build's console, as long as it has not begun and where that can be done."""
        ...

    def close(self, node: str, agent: str) -> None:
        """Its item has begun: the node answers to its own labels again. Idempotent."""
        ...

    def free(self, node: str, agent: str, *, ends_build: bool) -> None:
        """Take the reservation away, and first end what it was for if that is wanted and runs. Idempotent."""
        ...
