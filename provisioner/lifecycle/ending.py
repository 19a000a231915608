"""How an agent ends: the reason in words, and the removal of node and instance from any checkpoint."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from provisioner.backends.contract import Backend, InstanceState, Status
from provisioner.controller.port import Controller
from provisioner.lifecycle.dialling import Dialling
from provisioner.model.agent import AgentState
from provisioner.model.errors import NEXT_STEP, NO_ROOM_STEP, LaunchError, NoRoom, ProvisionerError, Reason

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.deadlines import Limit

log = structlog.get_logger()

#: How long a provider may take to tell of the end of an instance whose connection broke, and how often it is asked.
_DEATH_S = 6.0
_LOOK_S = 0.5
#: Phases told in the last line: label, from, to.
_PHASES = (
    ("registered", AgentState.PLANNED, AgentState.STARTING),
    ("started", AgentState.STARTING, AgentState.CONNECTING),
    ("connected", AgentState.CONNECTING, AgentState.IDLE),
    ("build taken", AgentState.IDLE, AgentState.RUNNING),
    ("ran", AgentState.RUNNING, AgentState.FINISHED),
)


def error_lines(error: ProvisionerError, *, what: str = "Launch failed") -> list[str]:
    """What the console shows of a failure: the reason, its slug, the last lines, what to do next."""
    lines = [f"{what}: {error.message} ({error.reason.value})"]
    if error.tail:
        lines.append("Last lines of the instance:")
        lines.extend(f"    {line}" for line in error.tail)
    lines.append(f"What to do: {NO_ROOM_STEP if isinstance(error, NoRoom) else NEXT_STEP[error.reason]}")
    return lines


def out_of_time(task: AgentTask, limit: Limit) -> None:
    """One of its limits is over: the log says which, and the agent is to go."""
    told, reason = limit.told, limit.reason
    task.log.say(f"{told[0].upper()}{told[1:]} ({reason.value})", f"What to do: {NEXT_STEP[reason]}")
    task.want_gone(reason, told)


async def failure_of(task: AgentTask, dialling: Dialling, status: Status, *, connected: bool) -> LaunchError:
    """Why an instance that no longer runs ended, with its last lines."""
    tail = await _tail(task, dialling)
    reason = Reason.AGENT_LOST if connected else Reason.AGENT_EXITED
    when = "while its build ran or was about to" if connected else "before its agent connected"
    if status.out_of_memory:
        return LaunchError(f"the instance ran out of memory {when}", reason=Reason.OUT_OF_MEMORY, tail=tail)
    if status.state is InstanceState.MISSING:
        return LaunchError(f"the instance was removed by somebody else {when}", reason=reason, tail=tail)
    code = "" if status.exit_code is None else f" with exit code {status.exit_code}"
    detail = f" ({status.detail})" if status.detail else ""
    return LaunchError(f"the instance ended{code} {when}{detail}", reason=reason, tail=tail)


async def ended(task: AgentTask, backend: Backend) -> Status | None:
    """How the instance ended, or None while it runs or cannot be asked."""
    task.facts.ended = False
    try:
        status = await backend.status(task.agent.name, task.agent.ids)
    except LaunchError as error:
        log.info("status.unknown", agent=task.agent.name, problem=error.message)
        return None
    return status if status.state in (InstanceState.EXITED, InstanceState.MISSING) else None


async def death(task: AgentTask, backend: Backend, dialling: Dialling) -> LaunchError | None:
    """Why an agent died under its build; None if it did not."""
    status = await ended(task, backend)
    deadline = task.clock.monotonic() + _DEATH_S
    # a build may end with the connection, before the provider knows that the instance has
    while status is None and task.facts.lost and (left_s := deadline - task.clock.monotonic()) > 0:
        await task.facts.wait(lambda: task.facts.ended, task.clock, min(left_s, _LOOK_S))
        status = await ended(task, backend)
    if status is not None:
        return await failure_of(task, dialling, status, connected=True)
    if not task.facts.lost:
        return None
    why = f" ({task.facts.offline_cause})" if task.facts.offline_cause else ""
    return LaunchError(
        f"its connection broke while its build ran, and its instance still runs{why}",
        reason=Reason.AGENT_LOST,
        tail=await _tail(task, dialling),
    )


async def take_down(task: AgentTask, controller: Controller, backend: Backend, dialling: Dialling) -> None:
    """Remove node and instance side by side; what succeeded is on disk even if the other one failed.

    Raises:
        ControllerError: the node could not be removed; call again.
        LaunchError: the instance could not be removed; call again.
    """
    results = await asyncio.gather(
        _remove_node(task, controller, dialling), _remove_instance(task, backend, dialling), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _tail(task: AgentTask, dialling: Dialling) -> tuple[str, ...]:
    try:
        return await dialling.tail(task)
    except LaunchError:
        return ()


async def _remove_node(task: AgentTask, controller: Controller, dialling: Dialling) -> None:
    if task.agent.node_removed:
        return
    if AgentState.REGISTERING in task.agent.marks:
        lines = task.log.take()
        summary = phases(task)
        if summary:
            task.log.note(summary)  # the build's own console ends with the phases as the bridge saw them
        try:
            await controller.remove(task.agent.name, lines, credentials=dialling.dials(task))
        except BaseException:
            task.log.give_back(lines)
            raise
    task.save(replace(task.agent, node_removed=True))


async def _remove_instance(task: AgentTask, backend: Backend, dialling: Dialling) -> None:
    if task.agent.instance_removed:
        return
    if AgentState.STARTING in task.agent.marks:
        await backend.stop(task.agent.name, task.agent.ids)
        await dialling.part(task)
    task.save(replace(task.agent, instance_removed=True))


def phases(task: AgentTask) -> str:
    """One line with the time of each phase that was reached; empty if the build never ran."""
    marks = task.agent.marks
    if AgentState.FINISHED not in marks:
        return ""
    parts = [
        f"{label} {(marks[end] - marks[begin]).total_seconds():.2f} s"
        for label, begin, end in _PHASES
        if begin in marks and end in marks
    ]
    return f"Agent {task.agent.name} is done: {', '.join(parts)}"
