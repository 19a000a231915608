"""A provider of clean static nodes. Their agents run already; a start is no more than saying which node it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from provisioner.backends.contract import (
    Channel,
    Checkpoint,
    Ended,
    Found,
    InstanceState,
    Listing,
    Order,
    Progress,
    Stats,
    Status,
)
from provisioner.model.errors import ControllerError, LaunchError, Reason
from provisioner.static.nodes import StaticNodes
from provisioner.transports.dialling import Address

#: The key of an agent's record that holds its node's name.
NODE = "node"
_LOOK_EVERY_S = 5.0


class StaticBackend:
    """See `backends.contract.Backend`. `StaticPort.register` reserves the node, its `remove` gives it back."""

    def __init__(self, provider: str, nodes: StaticNodes) -> None:
        self._provider = provider
        self._nodes = nodes

    async def open(self) -> None:
        """Look at the nodes once."""
        try:
            await self._nodes.look()
        except ControllerError as error:
            raise self._unreachable(error) from error

    async def close(self) -> None:
        """Nodes stay as they are."""

    async def ping(self) -> str:
        """How many there are."""
        await self.open()
        room = self._nodes.room(self._provider)
        return f"static nodes, {room.free} clean and free" + ("" if room.free else f" ({room.reason})")

    async def verify(self, order: Order) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing is started."""
        return ()

    def remote_root(self, owner: str, agent: str, remote_fs: str) -> str:  # noqa: ARG002
        """The node has a root of its own."""
        return remote_fs

    async def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        """Tell which node it is."""
        placed = self._nodes.placed(order.agent)
        if placed is None:
            raise LaunchError(f"no node is reserved for agent {order.agent}", reason=Reason.INTERNAL_ERROR)
        yield Checkpoint(key=NODE, value=placed.node)
        yield Progress(text=f"the clean node {placed.node} is reserved for this build")

    def java(self, source: str) -> str:  # noqa: ARG002
        """The node has its own."""
        return "java"

    async def address(self, agent: str, ids: Mapping[str, str]) -> Address | None:  # noqa: ARG002
        """Nobody dials it."""
        return None

    async def open_channel(self, agent: str, ids: Mapping[str, str]) -> Channel:  # noqa: ARG002
        """There is none: the node has its own way to the controller."""
        raise LaunchError(
            f"agent {agent} is on a static node, which is connected by itself", reason=Reason.TEMPLATE_INVALID
        )

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        """The node's own agent goes on."""

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:  # noqa: ARG002
        """Whether it has a node; what the node does, the controller tells."""
        there = self._nodes.placed(agent) is not None
        return Status(state=InstanceState.RUNNING if there else InstanceState.MISSING)

    async def stats(self, agent: str, ids: Mapping[str, str]) -> Stats:  # noqa: ARG002
        """Not known."""
        return Stats()

    async def log_tail(self, agent: str, ids: Mapping[str, str], lines: int = 20) -> tuple[str, ...]:  # noqa: ARG002
        """Not known."""
        return ()

    async def listing(self, owner: str) -> Listing:  # noqa: ARG002
        """There are no instances; a reservation is seen with the controller's nodes."""
        return Listing(found=(), complete=True)

    async def remove_found(self, found: Found) -> None:
        """There is nothing."""

    async def events(self) -> AsyncIterator[Ended]:
        """Never one; but the nodes are looked at, so that it is known which are free."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._nodes.look()
            except ControllerError as error:
                raise self._unreachable(error) from error
            ends: tuple[Ended, ...] = ()
            for end in ends:
                yield end

    def _unreachable(self, error: ControllerError) -> LaunchError:
        return LaunchError(
            f"provider {self._provider}: {error.message}", reason=Reason.PROVIDER_UNREACHABLE, retryable=True
        )
