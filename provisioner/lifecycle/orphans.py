"""What carries our mark and belongs to no agent, with the reason and the age that a person is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import Desk


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """One thing of ours that belongs to no agent."""

    kind: str
    id: str
    agent: str
    where: str  # controller or provider
    passes: int
    reason: str
    age_s: float | None = None


def why(desk: Desk, agent: str, passes: int, held: str) -> str:
    """Why it is an orphan, and why it is still there.

    Args:
        desk: the desk; its records know agents that are gone.
        agent: the name on it.
        passes: how many looks in a row saw it.
        held: what it waits for, if anything.
    """
    record = desk.store.agent(agent)
    if record is not None:
        origin = f"its agent is {record.state.value}, and this is left over"
    elif agent in desk.store.unreadable:
        origin = "the record of its agent cannot be read"
    else:
        origin = "no record knows it"
    if held:
        return f"{origin}; {held}"
    if passes < 2:
        return f"{origin}; removed when a second look agrees"
    return f"{origin}; it could not be removed yet"


def age_s(desk: Desk, agent: str, seen_s: float) -> float | None:
    """Seconds since its agent was planned, or else since it was first seen; None if neither is known."""
    record = desk.store.agent(agent)
    if record is not None:
        return max(0.0, (desk.clock.now() - record.created_at).total_seconds())
    return seen_s or None
