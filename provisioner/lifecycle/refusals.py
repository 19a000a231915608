"""Providers that said themselves that they are full, and what they may hold meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from provisioner.capacity.plant import Bounded, ProviderCaps
from provisioner.capacity.refusal import Refusal
from provisioner.model.agent import Agent, AgentState
from provisioner.model.errors import NoRoom, ProvisionerError

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import Desk

log = structlog.get_logger()

_STARTED = frozenset({AgentState.CONNECTING, AgentState.IDLE, AgentState.RUNNING, AgentState.FINISHED})


class Refusals:
    """One refusal for each provider that has less room than its configuration says. Forgotten by a restart."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._of: dict[str, Refusal] = {}

    def tells(self, agent: Agent, error: ProvisionerError) -> bool:
        """Whether a launch failed for want of room, so that nothing but its provider must wait.

        Static nodes are counted one by one, and need no bound that is learnt.
        """
        return isinstance(error, NoRoom) and self._desk.providers[agent.provider].room is None

    def refused(self, agent: Agent, error: ProvisionerError) -> None:
        """A launch failed; learn from it what the provider holds, if that was the reason."""
        if not isinstance(error, NoRoom) or not self.tells(agent, error):
            return
        now, seated, before = self._desk.clock.now(), self._seated(agent.provider), self._of.get(agent.provider)
        if before is None or before.over(now):
            before, after = None, Refusal.first(error.lacks, seated, now)
        else:
            after = before.again(error.lacks, seated, now)
        self._of[agent.provider] = after
        if before is None or after.until != before.until:
            log.warning(
                "provider.full", provider=agent.provider, agents=after.held, for_s=after.pause_s, problem=error.message
            )

    def started(self, agent: Agent) -> None:
        """An instance has started: there was room for it."""
        if (before := self._of.get(agent.provider)) is not None:
            self._of[agent.provider] = before.holds(self._seated(agent.provider))

    def forget(self, provider: str) -> None:
        """An operator says that there is room. Idempotent."""
        self._of.pop(provider, None)

    def bounded(self, provider: ProviderCaps) -> ProviderCaps:
        """A provider with the room that it has by its own word."""
        refusal, now = self._of.get(provider.name), self._desk.clock.now()
        if refusal is None or refusal.over(now):
            return provider
        room = refusal.room(self._seated(provider.name), now)
        if provider.max_agents is not None and room >= provider.max_agents:
            return provider
        until = f"{refusal.until:%H:%M:%S} UTC" if refusal.waits(now) else ""
        return Bounded(name=provider.name, max_agents=room, reason=refusal.message, until=until)

    def _seated(self, provider: str) -> int:
        """Agents whose instance has started and is not known to be gone."""
        agents = (task.agent for task in self._desk.agents.values())
        return sum(
            agent.provider == provider and (agent.state in _STARTED or AgentState.CONNECTING in agent.marks)
            for agent in agents
        )
