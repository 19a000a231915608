"""What the bridge's tests need around the client: events in a list, agents as local processes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from controller import RealController, freestyle_xml, pipeline_xml

from provisioner.controller.bridge_client import BridgeClient
from provisioner.controller.port import (
    BuildFinished,
    BuildStarted,
    ItemBuildable,
    Launcher,
    NodeOffline,
    NodeOnline,
    NodeOrder,
    Observation,
)
from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError
from provisioner.model.queue import QueueItem

O = TypeVar("O")  # noqa: E741


def shell_job(kind: str, shell: str) -> str:
    """A freestyle or a Pipeline job of one shell step, on an agent with the label of these tests."""
    if kind == "freestyle":
        return freestyle_xml(shell, label="maven")
    return pipeline_xml(f'node("maven") {{ sh """{shell}""" }}')


class Agents:
    """The controller's own `agent.jar`, started by hand and ended by process id."""

    def __init__(self, jenkins: RealController, folder: Path) -> None:
        self._jenkins = jenkins
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, secret: str, *, launcher: Launcher = Launcher.WEBSOCKET) -> subprocess.Popen[bytes]:
        jar = self._folder / "agent.jar"
        if not jar.exists():
            jar.write_bytes(self._jenkins.request("GET", "jnlpJars/agent.jar").body)
        home = self._folder / name
        home.mkdir(exist_ok=True)
        secret_file = home / "secret"
        secret_file.touch(mode=0o600)
        secret_file.write_text(secret)
        command = ["java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", str(jar)]
        command += ["-url", self._jenkins.url, "-secret", f"@{secret_file}", "-name", name]
        command += ["-webSocket"] if launcher is Launcher.WEBSOCKET else []
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "-workDir", str(home)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def home(self, name: str) -> str:
        return str(self._folder / name)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(timeout=10)


def named(name: str) -> Callable[[NodeOnline | NodeOffline | BuildFinished], bool]:
    """Whether an observation is of this node."""
    return lambda seen: seen.name == name


class Rig:
    """A client with a running long poll, for one owner."""

    def __init__(
        self, jenkins: RealController, agents: Agents, *, owner: str | None = None, user: str = "", token: str = ""
    ) -> None:
        self.jenkins = jenkins
        self.agents = agents
        self.owner = owner or f"test-{secrets.token_hex(3)}"
        self.http = Rest(
            name="main", url=jenkins.url, user=user or jenkins.user, token=token or jenkins.token, timeout_s=20
        )
        self.client = BridgeClient(
            self.http, controller="main", user=user or jenkins.user, owner=self.owner, parameters=("WANTED",)
        )
        self.seen: list[Observation] = []
        self._news = asyncio.Condition()
        self._poll: asyncio.Task[None] | None = None

    async def open(self, *, install: bool = True) -> None:
        if install:
            await self.client.install()
        hello = await self.client.hello()
        self._poll = asyncio.create_task(self._listen(hello.epoch, hello.seq))

    async def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll
        await self.client.close()
        self.http.close()

    async def _listen(self, epoch: str, seq: int) -> None:
        while True:
            try:
                batch = await self.client.events(epoch=epoch, since=seq, wait_s=5)
                if batch.resync:
                    hello = await self.client.hello()
                    epoch, seq = hello.epoch, hello.seq
                    continue
            except ControllerError:  # a test took the bridge out, or restarted the controller
                await asyncio.sleep(0.2)
                continue
            seq = batch.seq
            async with self._news:
                self.seen.extend(batch.observations)
                self._news.notify_all()

    async def until(self, kind: type[O], matches: Callable[[O], bool] = lambda _: True, *, within_s: float = 90.0) -> O:
        """The first observation of that kind that matches, now or later."""

        def first() -> O | None:
            return next((o for o in self.seen if isinstance(o, kind) and matches(o)), None)

        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: first() is not None)
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} within {within_s} s; seen: {self.seen}") from None
        found = first()
        assert found is not None
        return found

    async def queued(self, job: str, xml: str) -> QueueItem:
        """The buildable item of a new job."""
        self.jenkins.create_job(job, xml)
        self.jenkins.queue_build(job)
        return await self.item(job)

    async def item(self, job: str, *, but: Sequence[QueueItem] = ()) -> QueueItem:
        """The next buildable item of a job."""
        known = {item.key for item in but}
        seen = await self.until(ItemBuildable, lambda o: o.item.job == job and o.item.key not in known)
        return seen.item

    def order(
        self,
        request: QueueItem | None,
        *,
        labels: tuple[str, ...] = ("maven",),
        lines: tuple[str, ...] = (),
        launcher: Launcher = Launcher.WEBSOCKET,
    ) -> NodeOrder:
        name = f"maven-{secrets.token_hex(8)}"
        return NodeOrder(
            name=name,
            owner=self.owner,
            labels=labels,
            remote_fs=self.agents.home(name),
            request=request,
            launcher=launcher,
            lines=lines,
        )

    async def launch(self, order: NodeOrder) -> subprocess.Popen[bytes]:
        """Register the node and start its agent."""
        registration = await self.client.register(order)
        return self.agents.start(order.name, registration.secret, launcher=order.launcher)

    async def begin(self, order: NodeOrder) -> subprocess.Popen[bytes]:
        """Launch it and wait until its build has begun."""
        agent = await self.launch(order)
        await self.until(BuildStarted, lambda o: o.name == order.name)
        return agent

    async def console_shows(self, job: str, what: str, *, number: int = 1, within_s: float = 60.0) -> str:
        """The console as soon as the text is in it, whether or not the build has ended."""
        console = ""
        deadline = asyncio.get_running_loop().time() + within_s
        while asyncio.get_running_loop().time() < deadline:
            console = await asyncio.to_thread(self.jenkins.console, job, number)
            if what in console:
                return console
            await asyncio.sleep(0.1)
        raise AssertionError(f"the console of {job} {number} does not show {what!r}:\n{console}")

    async def node_finishes(self, name: str, *, within_s: float = 60.0) -> None:
        """A snapshot tells that the node's build is over, whether or not there was a bridge to see it end.

        Nor need the long poll of this rig have heard of it: it begins anew where another bridge was put in.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        while asyncio.get_running_loop().time() < deadline:
            nodes = {node.name: node for node in (await self.client.hello()).snapshot.nodes}
            if nodes[name].finished:
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"node {name} is not told as finished: {nodes[name]}")

    async def build_ends(self, job: str, number: int = 1) -> dict[str, Any]:
        build: dict[str, Any] = await asyncio.to_thread(self.jenkins.wait_build, job, number)
        return build
