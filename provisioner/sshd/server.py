"""The server: who is let in, and what then happens."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import asyncssh

from provisioner.sshd.agent import Agent
from provisioner.sshd.commands import Environment, Launch, Quit, parse
from provisioner.sshd.files import RootFiles

#: Connections that have not logged in; the controller and the sidecar's look make two. Of more than these the oldest
#: goes, so that a newcomer always gets a turn.
_MOST_STRANGERS = 16
_LOGIN_S = 60.0  # on a machine that is busy starting a hundred of them
_ALIVE_EVERY_S = 15.0
_REFUSED = 126
#: The quick ones; the launcher would ask for a long computation else, for each connection.
_EXCHANGES = ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"]


@dataclass(frozen=True, slots=True)
class Options:
    """How the server is started."""

    port: int
    host_key: Path
    authorized_keys: Path
    root: Path  # the agent's
    command: tuple[str, ...]  # the agent's


class Door(asyncssh.SSHServer):
    """One connection: a key that is known, or nothing."""

    strangers: ClassVar[dict[Door, asyncssh.SSHServerConnection]] = {}  # those who have not shown a key yet

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Somebody dialled."""
        Door.strangers[self] = conn
        if len(Door.strangers) > _MOST_STRANGERS:
            oldest = next(iter(Door.strangers))
            Door.strangers.pop(oldest).abort()

    def auth_completed(self) -> None:
        """It has shown its key."""
        Door.strangers.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncssh's)
        """It is gone."""
        Door.strangers.pop(self, None)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002  (asyncssh's)
        """Whatever name it gives: there is one user here, the one that this process runs as."""
        return True


async def serve(options: Options) -> None:
    """Listen until cancelled."""
    agent = Agent(options.command, options.root)

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.exit(await _run(process, agent))

    listening = await asyncssh.listen(
        "",
        options.port,
        server_factory=Door,
        server_host_keys=[asyncssh.read_private_key(options.host_key)],
        authorized_client_keys=str(options.authorized_keys),
        process_factory=run,
        sftp_factory=lambda channel: RootFiles(channel, options.root),
        allow_scp=False,
        allow_pty=False,
        agent_forwarding=False,
        x11_forwarding=False,
        encoding=None,
        login_timeout=_LOGIN_S,
        keepalive_interval=_ALIVE_EVERY_S,
        gss_host=None,
        kex_algs=_EXCHANGES,
        compression_algs=["none"],
        server_version="jenkins-provisioner",
    )
    _say(f"listening on port {options.port}")
    async with listening:
        await asyncio.Event().wait()


async def _run(process: asyncssh.SSHServerProcess[bytes], agent: Agent) -> int:
    match parse(process.command):
        case Quit(code=code):
            return code
        case Environment():
            for key, value in sorted(os.environ.items()):
                process.stdout.write(f"{key}={value}\n".encode())
            return 0
        case Launch() as launch:
            _say("starting the agent")
            code = await agent.serve(process, launch)
            _say(f"the agent ended with {code}")
            return code & 255
        case None:
            process.stderr.write(b"only the agent of this instance is started here\n")
            return _REFUSED


def _say(text: str) -> None:
    print(f"sshd: {text}", file=sys.stderr, flush=True)
