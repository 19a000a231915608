"""An agent's record: its states, the moves between them, and what is written before each act."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from provisioner.model.errors import ProvisionerError, Reason
from provisioner.model.queue import ItemKind, RequestKey


class AgentState(StrEnum):
    """Where an agent is in its life; each is written before the act that its comment names."""

    PLANNED = "planned"  # counted against capacity; nothing exists yet
    REGISTERING = "registering"  # the node is being created; it may exist
    STARTING = "starting"  # the node exists; the instance is being created and may exist
    CONNECTING = "connecting"  # the instance runs; its agent has not been seen by the controller
    IDLE = "idle"  # online, its build has not started
    RUNNING = "running"  # its build runs
    FINISHED = "finished"  # its build ended; node and instance still exist
    REMOVING = "removing"  # node and instance are being removed; either may be gone
    REMOVED = "removed"  # neither exists; kept for a while as history


#: The only moves there are. Every live state may go to REMOVING: cancel, failure and loss can strike anywhere.
MOVES: Mapping[AgentState, frozenset[AgentState]] = {
    AgentState.PLANNED: frozenset({AgentState.REGISTERING, AgentState.REMOVING}),
    AgentState.REGISTERING: frozenset({AgentState.STARTING, AgentState.REMOVING}),
    AgentState.STARTING: frozenset(
        # an agent may connect, and even take its build, before the backend's start call has returned
        {AgentState.CONNECTING, AgentState.IDLE, AgentState.RUNNING, AgentState.FINISHED, AgentState.REMOVING}
    ),
    AgentState.CONNECTING: frozenset({AgentState.IDLE, AgentState.RUNNING, AgentState.FINISHED, AgentState.REMOVING}),
    AgentState.IDLE: frozenset({AgentState.RUNNING, AgentState.FINISHED, AgentState.REMOVING}),
    AgentState.RUNNING: frozenset({AgentState.FINISHED, AgentState.REMOVING}),
    AgentState.FINISHED: frozenset({AgentState.REMOVING}),
    AgentState.REMOVING: frozenset({AgentState.REMOVED}),
    AgentState.REMOVED: frozenset(),
}

#: States in which nothing of the agent exists any more, so that its slot is free.
GONE: frozenset[AgentState] = frozenset({AgentState.REMOVED})


class Target(StrEnum):
    """What requesters want; they write only this, and the reconciler closes the gap."""

    SERVE = "serve"  # live for one build
    GONE = "gone"  # be removed as soon as possible


class IllegalMove(ProvisionerError):  # noqa: N818  (it is raised only by a fault of ours)
    """A move that the transition table does not know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """One node plus the instance behind it; lives for one build.

    `ids` holds every external id as it arrived (container, volume, process), so that teardown
    works from any checkpoint. `marks` holds when each state was entered (aware UTC).
    """

    name: str
    owner: str
    controller: str
    template: str
    provider: str
    request: RequestKey | None  # None: a standby agent that no build has been given yet
    state: AgentState
    target: Target
    created_at: datetime
    kind: ItemKind | None = None  # of the request
    labels: tuple[str, ...] = ()  # what its node answers to
    attempt: int = 1
    spec: Mapping[str, object] = field(default_factory=dict)  # the template as it was when the agent was planned
    ids: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, datetime] = field(default_factory=dict)
    reason: Reason | None = None
    detail: str = ""  # one plain sentence beside the reason
    node_removed: bool = False
    instance_removed: bool = False
    build_url: str | None = None
    held_until: datetime | None = None  # kept after its build until then, for debugging
    hold_reason: str = ""

    @property
    def live(self) -> bool:
        """Whether something of it may exist."""
        return self.state not in GONE

    def held(self, now: datetime) -> bool:
        """Whether it is kept for debugging."""
        return self.held_until is not None and now < self.held_until

    def moved(self, state: AgentState, at: datetime) -> Agent:
        """The same agent in another state.

        Raises:
            IllegalMove: the table does not know the move.
        """
        if state not in MOVES[self.state]:
            raise IllegalMove(f"agent {self.name} cannot go from {self.state} to {state}")
        return replace(self, state=state, marks={**self.marks, state.value: at})


def new_agent_name(template: str, randbytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """`TEMPLATE-` and 65 random bits, in letters and digits that every backend accepts in a name."""
    return f"{template}-{base64.b32encode(randbytes(9)).decode().lower().rstrip('=')[:13]}"
