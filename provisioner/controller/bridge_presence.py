"""Having the bridge in a controller: whose is there, whether it will do, and putting ours in where it may be."""

from __future__ import annotations

import structlog

from provisioner.controller.bridge_answers import BridgeStatus
from provisioner.controller.bridge_client import BridgeClient
from provisioner.controller.bridge_script import content
from provisioner.controller.port import BridgeMode
from provisioner.model.errors import ControllerError

_log = structlog.get_logger(__name__)


async def have_bridge(bridge: BridgeClient, *, controller: str, wanted: str) -> None:
    """See to it that a bridge is there that speaks our protocol.

    Args:
        bridge: the client.
        controller: the controller's name in the configuration.
        wanted: `auto`, `init` or `script`.

    Raises:
        ControllerError: there is none, or none that will do, and ours may not be put in.
    """
    try:
        status = await bridge.status()
    except ControllerError as error:
        if error.code != 409 or wanted == BridgeMode.INIT:
            raise
        # it speaks another protocol: an older one is replaced; a newer one stays, and is refused again
        await bridge.install()
        await bridge.status()
        return
    if status is not None and status.mode is BridgeMode.INIT:
        _compare(controller, status, then="print the administrator's file again with `provisioner bridge print`")
        return
    if wanted == BridgeMode.INIT:
        raise ControllerError(
            f"controller {controller} has no bridge from init.groovy.d; put the output of"
            " `provisioner bridge print` there and restart it, or set `bridge: auto`",
            code=404,
        )
    installed = await bridge.install()
    if not installed.done and status is not None:
        users = ", ".join(installed.used_by)
        _compare(controller, status, then=f"it stays while {users} works with it" if users else "the newer one stays")


def _compare(controller: str, status: BridgeStatus, *, then: str) -> None:
    """Another release's bridge will do, as it speaks our protocol; but what it does may differ from our pages."""
    if status.content != content():
        _log.warning("bridge.other_release", controller=controller, bridge=status.bridge, then=then)
