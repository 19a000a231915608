"""An agent that is kept after its build, for a person to look at it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from provisioner.config import Template
from provisioner.config.durations import parse_duration
from provisioner.controller.port import Controller
from provisioner.lifecycle.telling import tell
from provisioner.model.errors import ControllerError

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import Desk

log = structlog.get_logger()

#: Stands among an agent's marks: when its hold ended.
RELEASED_MARK = "released"
#: Stands there, too: when it was held because its build failed.
HELD_MARK = "held on failure"
#: For how long, if nobody says.
HOLD_S = 2 * 3600.0
#: How long the result of a build is waited for.
_RESULT_S = 5.0
_ASK_AGAIN_S = 0.5
#: The wall clock may be set back or forth; look at it this often.
_LOOK_EVERY_S = 30.0


async def hold_if_failed(desk: Desk, task: AgentTask) -> None:
    """Hold an agent whose build failed, where its template wants that and holds not enough of them yet."""
    most, hold_s = wanted(task.template)
    if not hold_s or task.agent.reason or {HELD_MARK, RELEASED_MARK} & task.agent.marks.keys():
        return
    if not await _build_failed(task, desk.controllers[task.agent.controller].port):
        return
    held = sum(
        HELD_MARK in other.agent.marks and RELEASED_MARK not in other.agent.marks
        for other in desk.agents.values()
        if other.agent.template == task.agent.template
    )
    now = task.clock.now()
    # a person may have held it while the result was waited for
    if task.doomed or task.agent.held(now) or (most is not None and held >= most):
        return
    until = now + timedelta(seconds=hold_s)
    marks = {**task.agent.marks, HELD_MARK: now}
    task.save(replace(task.agent, held_until=until, hold_reason="its build failed", marks=marks))
    task.log.say(
        f"Its build failed: it is held for debugging until {until:%Y-%m-%d %H:%M:%S} UTC (hold_on_failure); "
        f"`provisioner release {task.agent.name}` ends that"
    )
    tell(desk, task, after_the_end=True)


def wanted(template: Template) -> tuple[int | None, float]:
    """How many failed agents of a template are held at a time (None: all), and how long each, in seconds."""
    asked = template.hold_on_failure
    if isinstance(asked, str):
        return None, parse_duration(asked)
    return asked, HOLD_S if asked else 0.0


async def _build_failed(task: AgentTask, controller: Controller) -> bool:
    """Whether the build ended as a failure; of a `node` block, whether its run does, soon after it."""
    if task.facts.failed:
        return True
    url = task.agent.build_url or task.facts.build_url
    deadline = task.clock.monotonic() + _RESULT_S
    while url and not task.doomed:
        try:
            result = await controller.outcome(url)
        except ControllerError as error:
            log.info("outcome.unknown", agent=task.agent.name, problem=error.message)
            return False
        if result is not None or task.clock.monotonic() >= deadline:
            return result == "FAILURE"
        await task.facts.wait(lambda: task.doomed, task.clock, _ASK_AGAIN_S)
    return False


async def keep_held(task: AgentTask, controller: Controller) -> None:
    """Wait until nobody wants the agent any more; no second build gets onto it meanwhile."""
    try:
        await controller.bar(task.agent.name)
    except ControllerError as error:
        # with the bridge the node is closed by itself, without it since its build began
        log.info("held.not_barred", agent=task.agent.name, problem=error.message)
    log.info("agent.held", agent=task.agent.name, until=str(task.agent.held_until), reason=task.agent.hold_reason)
    while not task.doomed and task.agent.held_until is not None:
        left_s = (task.agent.held_until - task.clock.now()).total_seconds()
        if left_s <= 0:
            break
        until = task.agent.held_until
        await task.facts.wait(
            lambda until=until: task.doomed or task.agent.held_until != until,  # type: ignore[misc]
            task.clock,
            min(_LOOK_EVERY_S, left_s),
        )
    now = task.clock.now()
    task.save(replace(task.agent, held_until=None, marks={**task.agent.marks, RELEASED_MARK: now}))
    task.log.say("It is no longer held")
    task.log.take()  # its console is complete
