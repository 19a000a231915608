"""The `docker` backend: one container per agent.

An agent's container and its secret volume carry the agent's name and our mark. Each kind of work has
threads of its own, so that a slow pull or a hung start never delays a stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import ParamSpec, TypeVar

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
from provisioner.backends.docker import reading, removal
from provisioner.backends.docker.addressing import Addressing
from provisioner.backends.docker.channel import attach
from provisioner.backends.docker.container import JAVA_AT, limits_text
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.backends.docker.faults import read_error, removal_error, start_error
from provisioner.backends.docker.fetched import FetchedJars
from provisioner.backends.docker.images import Images
from provisioner.backends.docker.launching import Launching
from provisioner.backends.docker.pruning import Pruning
from provisioner.backends.docker.runtime import problem as runtime_problem
from provisioner.backends.docker.ssh_server import problem as ssh_server_problem
from provisioner.backends.docker.verifying import place_problems
from provisioner.backends.docker.watching import ends
from provisioner.backends.endpoint_files import SshFiles, TlsFiles
from provisioner.backends.turns import Turns
from provisioner.model.errors import NEXT_STEP, LaunchError, Reason
from provisioner.transports.dialling import Address

P = ParamSpec("P")
T = TypeVar("T")

_LET_GO_S = 2.0
_DEFAULT_ENDPOINT = "unix:///var/run/docker.sock"


class DockerBackend:
    """Instances are containers of one engine.

    Args:
        endpoint: unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST; None: the engine of this machine.
        tls: files for tcp://.
        ssh: files for ssh://; None: those of the account.
        network: what containers join; None: the engine's own bridge.
        runtime: what runs them; None: the engine's own.
        java: the Java program in the images.
        timeout_s: the longest wait for one answer, pulls apart.
        registries: user and password by registry host.
        ssh_host: a name of the engine's host as the controller reaches it, where it does not reach containers.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        tls: TlsFiles | None = None,
        ssh: SshFiles | None = None,
        network: str | None = None,
        runtime: str | None = None,
        java: str = "java",
        timeout_s: float = 60.0,
        registries: Mapping[str, tuple[str, str]] | None = None,
        ssh_host: str | None = None,
    ) -> None:
        self._java = java
        self._network = network
        self._runtime = runtime
        self._timeout_s = timeout_s
        self._engine = Engine(endpoint=endpoint or _DEFAULT_ENDPOINT, tls=tls, ssh=ssh, timeout_s=timeout_s)
        self._turns = Turns()
        self._pruning = Pruning(self._engine)
        self._pulls = ThreadPoolExecutor(6, thread_name_prefix="docker-pull")
        self._starts = ThreadPoolExecutor(16, thread_name_prefix="docker-start")
        self._stops = ThreadPoolExecutor(12, thread_name_prefix="docker-stop")
        self._reads = ThreadPoolExecutor(6, thread_name_prefix="docker-read")
        self._images = Images(
            engine=self._engine,
            pulls=self._pulls,
            reads=self._reads,
            registries=dict(registries or {}),
            check=self._turns.check,
        )
        self._fetched = FetchedJars(self._engine)
        self._addressing = Addressing(self._engine, network=network, host=ssh_host)
        self._launching = Launching(
            engine=self._engine,
            images=self._images,
            fetched=self._fetched,
            check=self._turns.check,
            java=java,
            network=network,
            runtime=runtime,
            addressing=self._addressing,
        )

    async def open(self) -> None:
        """Connect, and agree on the API's version."""
        await self.ping()
        self._launching.preparing.later(self._pruning)

    async def close(self) -> None:
        """Let go of threads and connections, and end preparations; agents' containers live on. Idempotent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LET_GO_S):
                await asyncio.to_thread(self._launching.close, _LET_GO_S)
        for pool in (self._pulls, self._starts, self._stops, self._reads):
            pool.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    async def ping(self) -> str:
        """The engine's version."""
        return await self._in(self._reads, self._ping)

    def _ping(self) -> str:
        try:
            found = self._engine.call("GET", "/version", timeout_s=reading.READ_S).json()
        except RefusedError as refused:
            raise read_error(refused, "version") from refused
        version = found if isinstance(found, Mapping) else {}
        machine = f"{version.get('Os')}/{version.get('Arch')}"
        return f"Docker {version.get('Version')} ({machine}, API {version.get('ApiVersion')})"

    def remote_root(self, owner: str, agent: str, remote_fs: str) -> str:  # noqa: ARG002  (contract)
        """As asked for: each container has a file system of its own."""
        return remote_fs

    async def verify(self, order: Order) -> tuple[str, ...]:
        """Network, runtime, size of the disk, a Java to bring, an image that is not there and could not be pulled."""
        problems = await self._in(
            self._reads, place_problems, self._engine, self._network, self._runtime, order.template
        )
        if not order.image:
            problems.append("the template has no image; add `image: NAME`")
        elif await self._images.present(order.image) is None:
            if order.pull == "never":
                problems.append(
                    f"the image {order.image} is not on the engine; pull it there, or write `pull: missing`"
                )
            elif (error := await self._images.pull_problem(order.image)) is not None:
                problems.append(f"{error.message}; {NEXT_STEP[error.reason]}")
        if "{sshd}" in order.command and (missing := await self._in(self._reads, ssh_server_problem)) is not None:
            problems.append(missing)
        if order.java == "injected" and (missing := await self._in(self._reads, runtime_problem)) is not None:
            problems.append(missing)
        for key, what in (("sidecars", "side containers"), ("build", "image builds")):
            if order.template.get(key):
                problems.append(f"`{key}:` is set, and this backend has no {what} yet")
        return tuple(problems)

    async def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        """Pull if need be, make, fill, start: three requests where image and agent.jar are there."""
        self._turns.check(order.agent)
        async with aclosing(self._images.ensure(order)) as lines:
            async for line in lines:
                yield line
        made = await self._turns.step(self._starts, order.agent, self._launching.make, order)
        yield Checkpoint(key="container", value=made.id)
        if made.running:
            yield Progress(text=f"container {made.id[:12]} of an earlier start runs already")
            return
        await self._turns.step(self._starts, order.agent, self._launching.start, order, made)
        done = "made" if order.channel else "started"
        yield Progress(text=f"container {made.id[:12]} of {order.image} {done} ({limits_text(order.template)})")

    async def open_channel(self, agent: str, ids: Mapping[str, str]) -> Channel:
        """Attach to the container, then start it."""
        if (await self.status(agent, ids)).state is not InstanceState.CREATED:
            raise LaunchError(
                f"the channel of {agent} cannot be opened: it was opened before, or its container is gone",
                reason=Reason.AGENT_LOST,
            )
        container = ids.get("container", agent)
        kill = partial(self._in, self._stops, self._kill, agent, container)
        channel = await attach(self._engine, agent, container, kill)
        try:
            await self._in(self._starts, self._begin, agent, container)
        except BaseException:
            channel.let_go()
            raise
        return channel

    def _begin(self, agent: str, container: str) -> None:
        try:
            self._engine.call("POST", f"/containers/{name(container)}/start")
        except RefusedError as refused:
            raise start_error(refused, agent) from refused

    def _kill(self, agent: str, container: str) -> None:
        try:
            self._engine.call("POST", f"/containers/{name(container)}/kill")
        except RefusedError as refused:
            if refused.code not in (404, 409):  # gone, or ended
                raise removal_error(refused, f"container {agent}") from refused

    def java(self, source: str) -> str:
        """The injected one, or the one of the images."""
        return f"{JAVA_AT}/bin/java" if source == "injected" else self._java

    async def address(self, agent: str, ids: Mapping[str, str]) -> Address | None:
        """The container's own address, a port of the engine's host that is mapped to it, or that host's own."""
        return await self._in(self._reads, self._addressing.look, agent, ids)

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        """Kill and remove the container, its anonymous volumes and its secret volume."""
        await self._turns.stopping(agent, patience_s=self._timeout_s)
        await self._in(self._stops, self._stop, agent, ids)

    def _stop(self, agent: str, ids: Mapping[str, str]) -> None:
        self._fetched.look(agent, ids.get("container"))
        removal.remove_agent(self._engine, agent, ids)

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:
        """What the container does now."""
        return await self._in(self._reads, reading.status, self._engine, agent, ids)

    async def stats(self, agent: str, ids: Mapping[str, str]) -> Stats:
        """What it uses now, without the page cache that it could do without."""
        return await self._in(self._reads, reading.stats, self._engine, agent, ids)

    async def log_tail(self, agent: str, ids: Mapping[str, str], lines: int = 20) -> tuple[str, ...]:
        """Its last lines of output."""
        return await self._in(self._reads, reading.log_tail, self._engine, agent, ids, lines)

    async def listing(self, owner: str) -> Listing:
        """Containers, volumes and networks with the owner's mark; in passing, what no agent needs any more goes."""
        self._launching.preparing.later(self._pruning)
        return await self._in(self._reads, reading.listing, self._engine, owner)

    async def remove_found(self, found: Found) -> None:
        """Remove one container, volume or network."""
        await self._in(self._stops, removal.remove_found, self._engine, found)

    def events(self) -> AsyncIterator[Ended]:
        """Ends of containers, from the engine's event stream."""
        return ends(self._engine)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(*args, **kwargs))
