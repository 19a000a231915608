"""The agent connects to the controller's agent port, which the controller must have opened."""

from __future__ import annotations

from provisioner.transports.java import inbound


def command(*, agent_url: str, name: str) -> tuple[str, ...]:
    """The agent's command. With a wrong secret it tries again for ever: the connect time-out ends it."""
    return inbound(agent_url=agent_url, name=name)
