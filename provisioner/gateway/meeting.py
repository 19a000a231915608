"""The transport `ssh-gateway` as the lifecycle sees it: the controller dials the gateway in the instance's place."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from provisioner.gateway.client import GatewayClient
from provisioner.model.errors import LaunchError, Reason
from provisioner.transports.dialling import Address, Instance, NotYet, Whom
from provisioner.transports.keys import agent_keys

log = structlog.get_logger()


class ByGateway:
    """See `Dialled`.

    Args:
        client: the way to the gateway.
        places: each provider's settings by its name, as the gateway needs them.
    """

    def __init__(self, client: GatewayClient, places: Mapping[str, Mapping[str, object]]) -> None:
        self.client = client
        self.places = places

    async def meet(self, instance: Instance) -> Whom | NotYet:
        """Let the controller reach the agent with its key, and begin the agent."""
        if self.client.gate is None:
            return NotYet(text=f"the SSH gateway cannot be reached ({self.client.problem})")
        keys = agent_keys(instance.secret)
        try:
            gate = await self.client.admit(instance.agent, root=instance.root, jar=instance.jar, key=keys.user.public)
            await self.client.open(instance.agent, instance.ids, self.places[instance.provider])
        except LaunchError as error:
            if not error.retryable:
                raise
            return NotYet(text=error.message)
        return Whom(
            address=Address(host=gate.host, port=gate.port),
            host_key=gate.host_key,
            user=instance.agent,
            private_key=keys.user.private,
        )

    async def last_words(self, agent: str) -> tuple[str, ...]:
        """The end of the agent's standard error, which no engine keeps."""
        return await self.client.tail(agent)

    async def part(self, agent: str) -> None:
        """End the agent's session, and its key with it. A gateway that is not there has neither."""
        try:
            await self.client.revoke(agent)
        except LaunchError as error:
            if error.reason is not Reason.PROVIDER_UNREACHABLE:
                raise
            # its instance is gone, so its session is over; the sweep forgets the rest
            log.info("agent.not_revoked", agent=agent, problem=error.message)
