"""The gateway's server in this process, dialled by a real SSH client; what is behind it is in memory."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import asyncssh

from provisioner.gateway.admissions import Admission, Admissions
from provisioner.gateway.ssh import Door, host_key, key_data
from tests.fakes.channel import FakeChannel

JAR = b"PK the agent's jar " * 20_000
JAVA = ('openjdk version "17.0.15" 2025-04-15', "OpenJDK Runtime Environment (build 17)", "OpenJDK 64-Bit Server VM")


class Rig:
    def __init__(self, folder: Path) -> None:
        self.admissions = Admissions()
        self.door = Door(self.admissions)
        self.folder = folder
        self.keys: dict[str, asyncssh.SSHKey] = {}
        self.channels: dict[str, FakeChannel] = {}
        self._dialled: list[asyncssh.SSHClientConnection] = []

    async def start(self) -> None:
        self.host_key = host_key(self.folder / "host_key")
        self.port = await self.door.open("127.0.0.1", 0, self.host_key)

    async def stop(self) -> None:
        for connection in self._dialled:
            connection.abort()
            await connection.wait_closed()
        for one in self.admissions.all():
            await self.admissions.revoke(one.agent)
        await self.door.close()

    def admit(self, agent: str) -> Admission:
        key = self.keys[agent] = asyncssh.generate_private_key("ssh-ed25519")
        line = key.export_public_key().decode()
        return self.admissions.admit(
            agent, root=self.root(agent), jar=hashlib.sha256(JAR).hexdigest(), key=key_data(line)
        )

    async def open(self, agent: str, channel: FakeChannel | None = None, code: int = 7) -> FakeChannel:
        made = self.channels[agent] = channel or FakeChannel(b"<===[hello]===>", said=JAVA)

        async def give() -> FakeChannel:
            return made

        async def exit_code() -> int:
            return code

        await self.admissions.open(agent, give, exit_code)
        return made

    @staticmethod
    def root(agent: str) -> str:
        return f"/agents/{agent}"

    async def dial(
        self, agent: str, key: asyncssh.SSHKey | None = None, **options: Any
    ) -> asyncssh.SSHClientConnection:
        connection = await asyncssh.connect(
            "127.0.0.1",
            self.port,
            username=agent,
            client_keys=[key or self.keys[agent]],
            known_hosts=([self.host_key.convert_to_public()], [], []),
            config=[],
            agent_path=None,
            **options,
        )
        self._dialled.append(connection)
        return connection

    async def bring_jar(self, connection: asyncssh.SSHClientConnection, agent: str) -> None:
        async with connection.start_sftp_client() as sftp, sftp.open(f"{self.root(agent)}/remoting.jar", "wb") as file:
            await file.write(JAR)

    def command(self, agent: str) -> str:
        root = self.root(agent)
        return f'cd "{root}" && java  -jar remoting.jar -workDir {root} -jarCache {root}/remoting/jarCache'

    async def run_agent(self, connection: asyncssh.SSHClientConnection, agent: str) -> asyncssh.SSHClientProcess[bytes]:
        """As the launcher does, after its own look around."""
        await self.bring_jar(connection, agent)
        process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(self.command(agent), encoding=None)
        assert await process.stdout.readexactly(15) == b"<===[hello]===>"
        return process

    async def until(self, true: Any, within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
