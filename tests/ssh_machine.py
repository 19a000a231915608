"""A machine that is reached over SSH: this one, behind a server on a loopback port with keys of its own."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Self

import asyncssh


class SshMachine:
    """Runs commands as `sshd` does; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._host = asyncssh.generate_private_key("ssh-ed25519")
        client = asyncssh.generate_private_key("ssh-ed25519")
        self.key_file = folder / "key"
        self.key_file.touch(mode=0o600)
        client.write_private_key(self.key_file)
        self._authorized = folder / "authorized_keys"
        self._authorized.write_bytes(client.export_public_key())
        self.commands: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: Any = None

    @property
    def host_key(self) -> str:
        key: str = self._host.export_public_key().decode().strip()
        return key

    @property
    def other_host_key(self) -> str:
        """Of a machine that is not this one."""
        key: str = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        return key

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_host_keys=[self._host],
            authorized_client_keys=str(self._authorized),
            process_factory=self._run,
            encoding=None,
        )
        self.port = self._server.get_port()

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _run(self, process: Any) -> None:
        self.commands.append(process.command)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", process.command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await child.communicate(await process.stdin.read())
        process.stdout.write(output)
        process.exit(child.returncode)
