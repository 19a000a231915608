"""A gateway of its own, with the sidecars' clients and the instances that it carries: for tests and measurements."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from provisioner.backends.catalogue import make_backend
from provisioner.backends.contract import Backend, Checkpoint, InstanceState, Order
from provisioner.gateway.client import Gate, GatewayClient
from provisioner.gateway.wire import dump_place
from tests.seen_processes import gateways

JAR = b"PK a jar" * 1000


@dataclass(frozen=True, kw_only=True)
class Provider:
    name: str = "here"
    backend: str = "process"
    endpoint: None = None
    network: None = None
    runtime: None = None
    java: str = "java"
    work_dir: str | None = None
    tls: None = None
    ssh: None = None
    ssh_host: None = None
    timeout_s: float = 30.0


class House:
    """A folder for a gateway, any number of sidecars' clients, and instances of the `process` backend."""

    def __init__(self, folder: Path, *, key: asyncssh.SSHKey | None = None) -> None:
        self.folder = folder
        self._key = key  # of every agent; None: each has one of its own
        self.gateway = folder / "gateway"
        self.provider = Provider(work_dir=str(folder / "work"))
        self.backend: Backend = make_backend(self.provider)
        self.place = dump_place(self.provider, folder / "work")
        self.keys: dict[str, asyncssh.SSHKey] = {}
        self.ids: dict[str, dict[str, str]] = {}
        self._running: list[tuple[GatewayClient, asyncio.Task[None]]] = []

    def client(self, *, listen: tuple[str, int] = ("127.0.0.1", 0), needed: bool = True) -> GatewayClient:
        made = GatewayClient(self.gateway, listen=listen, needed=lambda: needed)
        self._running.append((made, asyncio.create_task(made.run())))
        return made

    async def reached(self, client: GatewayClient) -> Gate:
        async with asyncio.timeout(30):
            while (gate := client.gate) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return gate

    async def agent(self, client: GatewayClient, name: str, script: str = "echo up; cat; exit 3") -> Gate:
        order = Order(
            agent=name,
            owner="house",
            image=None,
            command=("/bin/sh", "-c", script),
            remote_fs="/x",
            channel=True,
        )
        self.ids[name] = {}
        async for step in self.backend.start(order):
            if isinstance(step, Checkpoint):
                self.ids[name][step.key] = step.value
        key = self.keys[name] = self._key or asyncssh.generate_private_key("ssh-ed25519")
        gate = await client.admit(
            name,
            root=self.root(name),
            jar=hashlib.sha256(JAR).hexdigest(),
            key=key.export_public_key().decode(),
        )
        await client.open(name, self.ids[name], self.place)
        return gate

    def root(self, name: str) -> str:
        return self.backend.remote_root("house", name, "/x")

    async def dial(self, gate: Gate, name: str) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            gate.host,
            gate.port,
            username=name,
            client_keys=[self.keys[name]],
            known_hosts=([asyncssh.import_public_key(gate.host_key)], [], []),
            config=[],
            agent_path=None,
        )

    async def session(self, gate: Gate, name: str) -> asyncssh.SSHClientProcess[bytes]:
        connection = await self.dial(gate, name)
        root = self.root(name)
        async with connection.start_sftp_client() as sftp, sftp.open(f"{root}/remoting.jar", "wb") as file:
            await file.write(JAR)
        process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
            f'cd "{root}" && java  -jar remoting.jar -workDir {root}', encoding=None
        )
        assert await process.stdout.readexactly(3) == b"up\n"
        return process

    async def until(self, name: str, state: InstanceState) -> None:
        async with asyncio.timeout(20):
            while (await self.backend.status(name, self.ids[name])).state is not state:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def pids(self) -> list[int]:
        return sorted(gateways(self.folder))

    async def drop(self, client: GatewayClient) -> None:
        """As if its sidecar had been killed."""
        for made, task in self._running:
            if made is client:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if made._child is not None:
                    made._child.returncode = 0  # the kernel's child now, not ours
        self._running = [(made, task) for made, task in self._running if made is not client]

    async def close(self) -> None:
        await asyncio.gather(*(self.backend.stop(name, ids) for name, ids in self.ids.items()))
        for client, _ in self._running:
            for agent in await client.agents():
                await client.revoke(agent)
            await client.part()
        for _, task in self._running:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._running), return_exceptions=True)
        for pid in self.pids():  # one that was left on purpose
            os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(20):
            while self.pids():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await self.backend.close()
