"""The agent connects to the controller's own web port; the quickest, and the only one through most proxies."""

from __future__ import annotations

from provisioner.transports.java import inbound, secret_file
from provisioner.transports.setup import Setup

files = secret_file


def command(setup: Setup) -> tuple[str, ...]:
    """The agent's command. With a wrong secret it exits 255."""
    return (*inbound(setup), "-webSocket")
