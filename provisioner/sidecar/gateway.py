"""The sidecar's gateway: kept at work while a template needs it, and swept of agents that nobody knows."""

from __future__ import annotations

import asyncio

import structlog

from provisioner.config import Settings, TransportKind
from provisioner.gateway.client import GatewayClient
from provisioner.gateway.meeting import ByGateway
from provisioner.gateway.wire import dump_place
from provisioner.lifecycle.desk import Desk
from provisioner.lifecycle.sweep import SWEEP_EVERY_S
from provisioner.model.errors import LaunchError

log = structlog.get_logger()

TRANSPORT = TransportKind.SSH_GATEWAY
_AFTER_FAULT_S = 1.0
#: In the gateway's environment: whose it is. No agent's mark stands beside it, so that no sweep takes it for one.
_OWNER_VARIABLE = "JENKINS_PROVISIONER_OWNER"


def by_gateway(settings: Settings) -> ByGateway:
    """The way of `ssh-gateway`, not reached yet."""
    client = GatewayClient(
        settings.gateway_folder,
        listen=settings.gateway.place,
        address=settings.gateway.told,
        mark={_OWNER_VARIABLE: settings.id},
    )
    return ByGateway(client, _places(settings))


def know_providers(desk: Desk) -> None:
    """Take the providers of the desk's settings: the configuration was read again."""
    way = desk.dialled.get(TRANSPORT.value)
    if isinstance(way, ByGateway):
        way.places = _places(desk.settings)


def _places(settings: Settings) -> dict[str, dict[str, object]]:
    return {provider.name: dump_place(provider, settings.work_dir(provider)) for provider in settings.providers}


class GatewayKeeper:
    """Looks after the gateway as long as the sidecar runs.

    Args:
        desk: of this sidecar; its way of `ssh-gateway` is the one that is kept.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        way = desk.dialled[TRANSPORT.value]
        assert isinstance(way, ByGateway)  # noqa: S101  (for the type; see `by_gateway`)
        self._client = way.client
        self._client.needed = self._needed
        self._strangers: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(), name="gateway")
            group.create_task(self.sweep(), name="gateway sweep")

    async def part(self) -> None:
        """Leave the gateway to its agents."""
        await self._client.part()

    def _needed(self) -> bool:
        return any(template.transport is TRANSPORT for template in self._desk.settings.templates) or any(
            task.template.transport is TRANSPORT for task in self._desk.agents.values()
        )

    async def _keep(self) -> None:
        while True:
            try:
                await self._client.run()
            except Exception:
                log.exception("gateway.fault")
            await asyncio.sleep(_AFTER_FAULT_S)

    async def sweep(self) -> None:
        """Revoke what two looks in a row found at the gateway and nowhere in the records."""
        while True:
            await self._desk.clock.sleep(SWEEP_EVERY_S)
            try:
                await self.look()
            except LaunchError as error:
                log.info("gateway.not_swept", problem=error.message)

    async def look(self) -> None:
        """One look.

        Raises:
            LaunchError: the gateway does not answer.
        """
        strangers = frozenset(await self._client.agents()) - self._desk.agents.keys()
        for agent in strangers & self._strangers:
            log.warning("orphan.removed", kind="gateway session", agent=agent)
            await self._client.revoke(agent)
        self._strangers = strangers - self._strangers
