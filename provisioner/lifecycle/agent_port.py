"""Agents of transport tcp: whether there is a port for them, before they are started and when they do not come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.config.kinds import TransportKind
from provisioner.model.errors import LaunchError, Reason

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import Desk

_DISABLED = (
    "the controller has no TCP port for agents: it is disabled in its security settings; give it a fixed port there, "
    "or write `transport: websocket`"
)


async def check(desk: Desk, task: AgentTask) -> None:
    """Nothing is started for a port that does not exist.

    Raises:
        LaunchError: connect_timeout; the port is disabled.
        ControllerError: the controller does not answer.
    """
    if task.template.transport is not TransportKind.TCP:
        return
    seen = await desk.controllers[task.agent.controller].port.agent_port(desk.agent_url(task.agent))
    if seen.port is None:
        raise LaunchError(_DISABLED, reason=Reason.CONNECT_TIMEOUT)


async def whereto(desk: Desk, task: AgentTask) -> str:
    """What an inbound agent did not connect to, as far as it can be said."""
    url = desk.agent_url(task.agent)
    if task.template.transport is not TransportKind.TCP:
        return url
    seen = await desk.controllers[task.agent.controller].port.agent_port(url)
    if seen.port is None:
        return f"{url}: {_DISABLED}"
    hint = f"; {seen.problem}" if seen.problem else "; it answers from here, so look at the way from the instance to it"
    return f"the controller's port for agents, {seen.host}:{seen.port}{hint},"
