"""The agent connects to the controller's own web port; the quickest, and the only one through most proxies."""

from __future__ import annotations

from provisioner.transports.java import inbound


def command(*, agent_url: str, name: str) -> tuple[str, ...]:
    """The agent's command. With a wrong secret it exits 255."""
    return (*inbound(agent_url=agent_url, name=name), "-webSocket")
