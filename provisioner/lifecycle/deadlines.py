"""How long an agent still has: to connect, and for its build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.config import Timeouts
from provisioner.lifecycle.standby import GIVEN_MARK
from provisioner.model.agent import AgentState

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask

#: At least this long an agent gets to connect after a restart of the sidecar.
_CONNECT_GRACE_S = 20.0


def connect_left_s(task: AgentTask, connect_s: float) -> float:
    """What is left of the time to connect; an agent that was taken over gets a little in any case."""
    if connect_s <= 0:
        return float("inf")
    since = task.agent.marks.get(AgentState.CONNECTING)
    if not task.taken_over or since is None:
        return connect_s
    return max(_CONNECT_GRACE_S, connect_s - max(0.0, (task.clock.now() - since).total_seconds()))


def time_left(task: AgentTask, limits: Timeouts) -> tuple[float, str]:
    """Seconds until the first of the limits ends the build, and what to say then."""
    lifetime_s, build_s = limits.lifetime_s or float("inf"), limits.build_s or float("inf")
    began = task.agent.marks.get(AgentState.RUNNING, task.agent.created_at)
    ran_s = max(0.0, (task.clock.now() - began).total_seconds())
    given = task.agent.marks.get(GIVEN_MARK)  # what it waited for a build does not count
    given_s = float("inf") if given is None else max(0.0, (task.clock.now() - given).total_seconds())
    lived_s = min(task.lived_s, given_s)
    return min(
        (lifetime_s - lived_s, f"the agent lived longer than `timeouts.lifetime`, {lifetime_s:.0f} s"),
        (build_s - ran_s, f"the build ran longer than `timeouts.build`, {build_s:.0f} s"),
    )
