"""The agent connects to the controller's agent port, which the controller must have opened."""

from __future__ import annotations

from provisioner.transports.java import inbound, secret_file
from provisioner.transports.setup import Setup

files = secret_file


def command(setup: Setup) -> tuple[str, ...]:
    """The agent's command. With a wrong secret it tries again for ever: the connect time-out ends it."""
    return inbound(setup)
