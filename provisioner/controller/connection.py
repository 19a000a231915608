"""One controller behind the `Controller` protocol: the bridge where it can be had, plain REST where not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

import structlog

from provisioner.controller.bridge_answers import Hello
from provisioner.controller.bridge_client import BridgeClient
from provisioner.controller.bridge_presence import have_bridge
from provisioner.controller.dial_log import READ_LINES, last_words
from provisioner.controller.long_poll import LongPoll
from provisioner.controller.port import (
    AgentPort,
    BridgeMode,
    ControllerInfo,
    Dial,
    FailOutcome,
    FateOf,
    NodeOrder,
    Observation,
    Registration,
    Snapshot,
    Unreachable,
)
from provisioner.controller.rest import Rest
from provisioner.controller.rest_mode import RestMode
from provisioner.controller.served import Served
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import BUILDS_OWN_FAULT, ControllerError
from provisioner.model.queue import QueueItem, RequestKey

_log = structlog.get_logger(__name__)

_PAUSE_FIRST_S = 0.5
_PAUSE_MOST_S = 30.0
_THREADS = 8  # for short calls
_BRIDGE_S = 30.0  # an op may wait for the queue's lock

T = TypeVar("T")


class Connection:
    """See `Controller`. Which way is in force, `info.mode` tells; it is chosen anew with every start of the controller.

    Args:
        http: the controller's HTTP.
        owner: our owner id.
        bridge: `auto`, `init`, `script` or `off`, as configured.
        poll_interval_s: the pace without the bridge.
        parameters: names of the build parameters that templates look at.
        holder: which provisioner this is; of two with one owner id the second is refused.
        monotonic: a clock.
        sleep: waits.
    """

    def __init__(
        self,
        http: Rest,
        *,
        owner: str,
        bridge: str,
        poll_interval_s: float,
        parameters: Sequence[str] = (),
        holder: str = "",
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._wanted = bridge
        self._poll_interval_s = poll_interval_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._pool = DaemonPool(_THREADS, f"rest-{http.name}")
        self._rest = RestMode(http, self._pool, owner=owner, parameters=parameters, holder=holder, monotonic=monotonic)
        self._bridge = BridgeClient(
            http,
            controller=http.name,
            user=http.user,
            owner=owner,
            parameters=parameters,
            timeout_s=max(_BRIDGE_S, http.timeout_s),
            holder=holder,
        )
        self._poll = LongPoll(self._bridge, controller=http.name, hello=self._tell_truth, monotonic=monotonic)
        self._info: ControllerInfo | None = None
        self._choosing = asyncio.Lock()
        self._served = Served(http, self._pool, monotonic)

    @property
    def info(self) -> ControllerInfo | None:
        """The last known state; None before the first contact."""
        return self._info

    async def open(self) -> ControllerInfo:
        """First contact; chooses the way.

        Raises:
            ControllerError: no contact, or a bridge was demanded that cannot be had.
        """
        async with self._choosing:
            self._info = await self._choose()
        _log.info("controller.opened", controller=self._http.name, bridge=self._info.mode.value)
        return self._info

    async def close(self) -> None:
        """Let go of threads and connections. The bridge stays, for the agents that still run."""
        await self._bridge.close()
        await self._rest.close()
        self._pool.shutdown()
        self._http.close()

    # -- the way

    async def _choose(self) -> ControllerInfo:
        info = await self._rest.open()
        if self._wanted == "off":
            return info
        try:
            await have_bridge(self._bridge, controller=self._http.name, wanted=self._wanted)
            return (await self._hello()).snapshot.info
        except ControllerError as error:
            # an outage is no reason to do without the bridge; a refusal is, unless the bridge was demanded
            if self._wanted != "auto" or error.retryable:
                raise
            _log.warning("bridge.unavailable", controller=self._http.name, error=error.message, instead="plain REST")
            return info

    async def _hello(self) -> Hello:
        hello = await self._bridge.hello()
        nodes = tuple(
            replace(node, known=node.known and node.name not in hello.unknown) for node in hello.snapshot.nodes
        )
        return replace(hello, snapshot=replace(hello.snapshot, nodes=nodes))

    @property
    def _bridged(self) -> bool:
        return self._info is not None and self._info.mode is not BridgeMode.OFF

    # -- seeing

    async def watch(self) -> AsyncIterator[Observation]:
        """Everything that happens, for ever; see `Controller.watch`."""
        pause_s = _PAUSE_FIRST_S
        while True:
            try:
                async with aclosing(self._look()) as looking:
                    async for seen in looking:
                        pause_s = _PAUSE_FIRST_S
                        yield seen
            except ControllerError as error:
                problem = error
            yield Unreachable(message=problem.message)
            await self._sleep(pause_s)
            pause_s = min(_PAUSE_MOST_S, 2 * pause_s)

    async def _look(self) -> AsyncGenerator[Observation, None]:
        """Until something fails; the way is chosen anew whenever the controller is another than before."""
        if self._info is None:
            await self.open()
        while True:
            looking = self._poll.follow() if self._bridged else self._look_by_rest()
            async with aclosing(looking) as way:
                async for seen in way:
                    yield seen
            await self.open()

    async def _look_by_rest(self) -> AsyncGenerator[Observation, None]:
        """A snapshot at every poll; ends when the controller was restarted and a bridge may be put in again."""
        session = self._info.session if self._info else ""
        while True:
            snapshot = await self.snapshot()
            if self._wanted != "off" and snapshot.info.session != session:
                return
            yield snapshot
            await self._sleep(self._poll_interval_s)

    async def _tell_truth(self) -> Hello:
        hello = await self._hello()
        self._info = hello.snapshot.info
        return hello

    async def snapshot(self) -> Snapshot:
        """The whole truth now."""
        if self._bridged:
            return (await self._by_bridge(self._tell_truth())).snapshot
        snapshot = await self._rest.snapshot()
        if not self._bridged:
            self._info = snapshot.info
        return snapshot

    # -- acting

    async def _by_bridge(self, work: Awaitable[T]) -> T:
        """Await a call of the bridge; that it is missing is no fault of the call: `watch` puts it back."""
        try:
            return await work
        except ControllerError as error:
            if error.code != 404:
                raise
            raise ControllerError(
                f"controller {self._http.name} has lost the bridge, most likely by a restart; it is being put back",
                code=503,
                retryable=True,
            ) from error

    async def register(self, order: NodeOrder) -> Registration:
        """Create the node, or find it there with our mark."""
        if self._bridged:
            return await self._by_bridge(self._bridge.register(order))
        return await self._rest.register(order)

    async def adopt(self, order: NodeOrder) -> bool:
        """Tell a new bridge about a node that exists; False if there is none."""
        if self._bridged:
            return await self._by_bridge(self._bridge.adopt(order))
        return await self._rest.adopt(order)

    async def dial(self, order: NodeOrder, dial: Dial) -> None:
        """Have the controller dial an agent."""
        if self._bridged:
            await self._by_bridge(self._bridge.dial(order.name, dial))
        else:
            await self._rest.dialling.dial(order, dial)

    async def remove(self, name: str, lines: Sequence[str] = (), *, credentials: bool = False) -> None:
        """Delete the node and, if asked for, its credentials entry; gone already is done."""
        if self._bridged:
            await self._by_bridge(self._bridge.remove(name, lines, credentials=credentials))
            return
        await self._rest.remove(name)
        if credentials:
            await self._rest.dialling.remove_credentials(name)

    async def credentials(self) -> tuple[str, ...]:
        """Names of the agents that have a credentials entry with our mark."""
        if self._bridged:
            return await self._by_bridge(self._bridge.credentials())
        return await self._rest.dialling.credentials()

    async def remove_credentials(self, name: str) -> None:
        """Delete the credentials entry of an agent; gone already is done."""
        if self._bridged:
            await self._by_bridge(self._bridge.remove_credentials(name))
        else:
            await self._rest.dialling.remove_credentials(name)

    async def launch_tail(self, name: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines of what the controller says about its connection to a node."""
        by = self._bridge if self._bridged else self._rest.dialling
        read = by.launch_tail(name, READ_LINES)
        return last_words(await (self._by_bridge(read) if self._bridged else read), lines)

    async def tell(self, name: str | None, request: QueueItem | None, lines: Sequence[str]) -> None:
        """Add lines to the launch log as the build shows it."""
        if self._bridged and lines:
            await self._by_bridge(self._bridge.log(name, request, lines))
        else:
            self._rest.tell(name, lines)

    async def bar(self, name: str) -> None:
        """Let the node take no further build. Idempotent."""
        if self._bridged:
            await self._by_bridge(self._bridge.bar(name))
        else:
            await self._rest.bar(name)

    async def let_return(self, name: str) -> None:
        """The Pipeline that a restart interrupted waits for this node; the bridge lets it in by itself. Idempotent."""
        if not self._bridged:
            await self._rest.let_return(name)

    async def fail(self, request: QueueItem, reason: str, message: str, lines: Sequence[str]) -> FailOutcome:
        """End the request with the reason in its console. Idempotent."""
        if not self._bridged:
            return await self._rest.fail(request, reason, message, lines)
        again = reason not in BUILDS_OWN_FAULT  # may a Pipeline's `retry(conditions: [agent()])` try again
        outcome, _ = await self._by_bridge(
            self._bridge.fail(request, reason=reason, message=message, lines=lines, retryable=again)
        )
        return outcome

    async def give(self, name: str, request: QueueItem) -> None:
        """Dedicate a standby node to an item; only with the bridge."""
        if not self._bridged:
            raise ControllerError(f"controller {self._http.name} has no bridge: standby agents cannot be given a build")
        await self._by_bridge(self._bridge.give(name, request))

    async def others(self, request: QueueItem) -> bool:
        """Whether somebody else could serve the item; without the bridge nobody knows."""
        return self._bridged and await self._by_bridge(self._bridge.explain(request))

    async def fate(self, key: RequestKey) -> FateOf:
        """What became of an item."""
        return await self._rest.fate(key)

    async def outcome(self, build_url: str) -> str | None:
        """The result of a build; None while it has none."""
        return await self._rest.outcome(build_url)

    async def agent_jar(self) -> bytes:
        """The controller's own agent.jar; read once for each start of the controller."""
        return await self._served.agent_jar()

    async def agent_port(self, agent_url: str) -> AgentPort:
        """The TCP port for agents; looked at anew after a minute."""
        return await self._served.agent_port(agent_url)

    def requests_made(self) -> Mapping[tuple[str, str], int]:
        """Requests by (operation, status code)."""
        return self._http.counts()
