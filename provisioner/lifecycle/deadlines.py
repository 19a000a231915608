"""How long an agent still has: to connect, and for its build."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from provisioner.config import Timeouts
from provisioner.lifecycle.standby import GIVEN_MARK
from provisioner.model.agent import AgentState
from provisioner.model.errors import Reason

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask

#: At least this long an agent gets to connect after a restart of the sidecar.
_CONNECT_GRACE_S = 20.0
#: So long a Pipeline may wait for its agent to come back, while the controller is there and the instance runs.
CUT_OFF_S = 1800.0


class Limit(NamedTuple):
    """What ends a build, and in how many seconds."""

    left_s: float
    reason: Reason
    told: str


def connect_left_s(task: AgentTask, connect_s: float) -> float:
    """What is left of the time to connect; an agent that was taken over gets a little in any case."""
    if connect_s <= 0:
        return float("inf")
    since = task.agent.marks.get(AgentState.CONNECTING)
    if not task.taken_over or since is None:
        return connect_s
    return max(_CONNECT_GRACE_S, connect_s - max(0.0, (task.clock.now() - since).total_seconds()))


def life_left(task: AgentTask, limits: Timeouts) -> Limit:
    """What is left of an agent's life; what it waited for a build to be given does not count."""
    lifetime_s = limits.lifetime_s or float("inf")
    given_s = task.passed_s(GIVEN_MARK)
    lived_s = task.lived_s if given_s is None else min(task.lived_s, given_s)
    told = f"the agent lived longer than `timeouts.lifetime`, {lifetime_s:.0f} s"
    return Limit(lifetime_s - lived_s, Reason.LIFETIME_EXCEEDED, told)


def time_left(task: AgentTask, limits: Timeouts) -> Limit:
    """The first of the limits that ends the build."""
    build_s = limits.build_s or float("inf")
    ran_s = task.passed_s(AgentState.RUNNING) or 0.0
    cut_off_at = task.facts.cut_off_at
    cut_off_s = 0.0 if cut_off_at is None else task.clock.monotonic() - cut_off_at
    return min(
        life_left(task, limits),
        Limit(
            build_s - ran_s,
            Reason.LIFETIME_EXCEEDED,
            f"the build ran longer than `timeouts.build`, {build_s:.0f} s",
        ),
        Limit(
            CUT_OFF_S - cut_off_s,
            Reason.AGENT_LOST,
            f"the agent lost its connection and did not come back within {CUT_OFF_S / 60:.0f} minutes "
            f"({task.facts.offline_cause or 'no cause'})",
        ),
    )
