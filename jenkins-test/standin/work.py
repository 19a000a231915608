"""What an executor does: a freestyle build, or one `node` body of a Pipeline."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standin.jobs import Build
    from standin.nodes import Executor
    from standin.queue import Item

_ids = itertools.count(1)


@dataclass(eq=False, slots=True)
class Work:
    """One task on one executor. `executor` is None while a Pipeline body waits to go on after a restart."""

    kind: str  # freestyle | pipeline
    item: Item
    build: Build
    executor: Executor | None
    failed: bool = False
    record: dict[str, Any] = field(default_factory=dict)  # its line in the history
    id: int = field(default_factory=lambda: next(_ids))
