"""The gateway's process life: one for a folder, from its lock to the end of its last agent."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog

from provisioner import __version__
from provisioner.gateway.admissions import Admissions, Stage
from provisioner.gateway.control import Answer, Control
from provisioner.gateway.ssh import Door, HostKey, host_key, public_line
from provisioner.gateway.wire import PROTOCOL, lock_in, socket_in
from provisioner.model.errors import ProvisionerError

log = structlog.get_logger()

#: So long it waits for a sidecar when it serves nobody; a killed sidecar that never comes back leaves nothing.
LINGER_S = 600.0
_LOOK_S = 1.0


class GatewayError(ProvisionerError):
    """The gateway cannot begin."""


class AlreadyThereError(GatewayError):
    """Another process is the gateway of this folder."""


class GatewayProcess:
    """One gateway.

    Args:
        folder: its lock, its host key, its port of last time, its control socket; made with mode 0700.
        host: where to listen.
        port: where to listen; 0: the port of last time, or any free one.
        linger_s: for how long it stays when neither a sidecar nor an agent's session is there.
    """

    def __init__(self, folder: Path, *, host: str, port: int, linger_s: float = LINGER_S) -> None:
        self._folder = folder
        self._host = host
        self._wanted = port
        self._linger_s = linger_s
        self._port = 0
        self._public = ""
        self._stop = asyncio.Event()
        self._admissions = Admissions()

    async def run(self) -> None:
        """Work until it is asked to end, or nobody needs it any more.

        Raises:
            AlreadyThereError: another one is at work.
            GatewayError: the folder or the port cannot be used.
        """
        _raise_file_limit()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            lock = os.open(lock_in(self._folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GatewayError(f"the gateway's folder {self._folder} cannot be used: {error.strerror}") from error
        async with AsyncExitStack() as stack:
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise AlreadyThereError(f"another gateway works in {self._folder}") from error
            key = host_key(self._folder / "host_key")
            self._public = public_line(key)
            door = Door(self._admissions)
            self._port = await self._listen(door, key)
            stack.push_async_callback(door.close)
            control = Control(self._admissions, hello=self._hello, retire=self._stop.set)
            await control.open(socket_in(self._folder))
            stack.push_async_callback(control.close)
            stack.callback(socket_in(self._folder).unlink, missing_ok=True)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            log.info("gateway.started", version=__version__, listen=f"{self._host}:{self._port}", pid=os.getpid())
            await self._until_done(control)
            await asyncio.gather(*(self._admissions.revoke(one.agent) for one in self._admissions.all()))
            log.info("gateway.stopped", connections_dropped=door.dropped)

    async def _listen(self, door: Door, key: HostKey) -> int:
        kept = self._folder / "port"
        wanted = [self._wanted]
        if self._wanted == 0:
            with suppress(OSError, ValueError):
                wanted = [int(kept.read_text()), 0]
        for port in wanted:
            try:
                found = await door.open(self._host, port, key)
            except OSError as error:
                if port == wanted[-1]:
                    raise GatewayError(
                        f"the gateway cannot listen at {self._host}:{port}: {error.strerror or error}; "
                        "write another `gateway.listen`"
                    ) from error
            else:
                kept.write_text(str(found))
                return found
        raise AssertionError("the last port raises or returns")

    def _hello(self) -> Answer:
        return {
            "protocol": PROTOCOL,
            "version": __version__,
            "pid": os.getpid(),
            "listen": [self._host, self._wanted],
            "host": self._host,
            "port": self._port,
            "host_key": self._public,
        }

    async def _until_done(self, control: Control) -> None:
        """Until asked to end, or for so long nobody was there."""
        alone_since: float | None = None
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            needed = control.sidecars or any(one.stage is Stage.SERVED for one in self._admissions.all())
            alone_since = None if needed else alone_since or loop.time()
            if alone_since is not None and loop.time() - alone_since > self._linger_s:
                log.info("gateway.alone", waited_s=self._linger_s)
                return
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._stop.wait()
            except TimeoutError:
                continue


def _raise_file_limit() -> None:
    """A connection and its channel are a few files each, and many may knock at once."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return
