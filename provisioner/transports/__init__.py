"""How an agent connects: one module per transport, one entry in the table below.

A transport says what the instance runs and which files it needs, and whether the controller dials. For those with
which it does, `dialling.py` says what else there is to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from provisioner.model.errors import LaunchError, Reason
from provisioner.transports import ssh, ssh_gateway, tcp, websocket
from provisioner.transports.setup import File, Setup

__all__ = ["File", "Setup", "Transport", "transport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Transport:
    """One way to connect."""

    command: Callable[[Setup], tuple[str, ...]]  # with the place holders of `backends.contract.Order`
    files: Callable[[Setup], tuple[File, ...]]  # for the instance's secret folder
    work_as: Callable[[Mapping[str, object]], str | None] = lambda _template: None  # see `Order.work_as`
    dialled: bool = False  # the controller dials; else the agent
    channel: bool = False  # the agent speaks through its own standard input and output, which somebody holds
    listens: bool = False  # the command listens on `{port}`, and the controller must reach it


_TRANSPORTS: Mapping[str, Transport] = {
    "websocket": Transport(command=websocket.command, files=websocket.files),
    "tcp": Transport(command=tcp.command, files=tcp.files),
    "ssh": Transport(command=ssh.command, files=ssh.files, work_as=ssh.work_as, dialled=True, listens=True),
    "ssh-gateway": Transport(command=ssh_gateway.command, files=ssh_gateway.files, dialled=True, channel=True),
}


def transport(name: str) -> Transport:
    """The transport of a template.

    Raises:
        LaunchError: template_invalid; no such transport here.
    """
    found = _TRANSPORTS.get(name)
    if found is None:
        raise LaunchError(
            f"the transport `{name}` is not built in; use one of {', '.join(sorted(_TRANSPORTS))}",
            reason=Reason.TEMPLATE_INVALID,
        )
    return found
