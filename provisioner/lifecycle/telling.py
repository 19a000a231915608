"""What is told of an agent while it works: lines to the console of its build, times to the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from provisioner.controller.port import BridgeMode
from provisioner.model.agent import AgentState

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import Desk

log = structlog.get_logger()


def tell(desk: Desk, task: AgentTask, *, after_the_end: bool = False) -> None:
    """Have the console shown what the log has and it has not; never waits, never fails."""
    if task.agent.request is None:
        return  # nobody reads it yet; the build that it is given to gets all of it
    if task.agent.state is AgentState.FINISHED and not after_the_end:
        task.log.take()  # its console is complete
        return
    desk.errand(_tell_now(desk, task), name=f"tell {task.agent.name}")


async def _tell_now(desk: Desk, task: AgentTask) -> None:
    lines = task.log.take()
    if not lines:
        return
    request = desk.book.get(task.agent.request)
    port = desk.controllers[task.agent.controller].port
    try:
        await port.tell(task.agent.name, request.item if request else None, lines)
    except Exception as error:  # noqa: BLE001  (a console that cannot be written must not harm the agent)
        task.log.give_back(lines)
        log.info("log.untold", agent=task.agent.name, problem=str(error))


def tell_connected(desk: Desk, task: AgentTask) -> None:
    """Have the launch log say that the agent is there; with the bridge the controller itself tells the build."""
    since = task.agent.marks.get(AgentState.REGISTERING)
    after = f" {(task.clock.now() - since).total_seconds():.1f} s after its registration" if since else ""
    info = desk.controllers[task.agent.controller].port.info
    say = task.log.say if info is not None and info.mode is BridgeMode.OFF else task.log.note
    say(f"Agent {task.agent.name} connected{after}")


def measure(desk: Desk, task: AgentTask, phase: str, since: str) -> None:
    """How long it is since a mark, if there is one."""
    mark = task.agent.marks.get(since)
    if mark is not None:
        desk.metrics.phase(phase, task.agent.controller, (task.clock.now() - mark).total_seconds())


def measure_queue(desk: Desk, task: AgentTask) -> None:
    """How long its request waited."""
    request = desk.book.get(task.agent.request)
    if request is not None:
        passed_s = (task.clock.now() - request.first_seen).total_seconds()
        desk.metrics.phase("queue_to_request_seconds", task.agent.controller, passed_s)
