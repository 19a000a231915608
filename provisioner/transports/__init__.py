"""The command by which an agent connects: one module per transport, one entry in the table below."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioner.model.errors import LaunchError, Reason
from provisioner.transports import tcp, websocket

_COMMANDS: Mapping[str, Callable[..., tuple[str, ...]]] = {
    "websocket": websocket.command,
    "tcp": tcp.command,
}


def agent_command(*, transport: str, agent_url: str, name: str) -> tuple[str, ...]:
    """The command of an agent, with the place holders of `backends.contract.Order`.

    Args:
        transport: a template's `transport`.
        agent_url: the controller as the agent reaches it.
        name: the node's name.

    Raises:
        LaunchError: template_invalid; no such transport here.
    """
    command = _COMMANDS.get(transport)
    if command is None:
        raise LaunchError(
            f"the transport `{transport}` of {name} is not built in; use one of {', '.join(sorted(_COMMANDS))}",
            reason=Reason.TEMPLATE_INVALID,
        )
    return command(agent_url=agent_url, name=name)
