"""An agent that is kept after its build, for a person to look at it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from provisioner.controller.port import Controller
from provisioner.model.errors import ControllerError

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask

log = structlog.get_logger()

#: Stands among an agent's marks: when its hold ended.
RELEASED_MARK = "released"
#: The wall clock may be set back or forth; look at it this often.
_LOOK_EVERY_S = 30.0


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
