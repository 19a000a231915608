"""The gateway's SSH server; all that the gateway knows of asyncssh is in here.

Public keys are the only way in, session channels the only thing to open, and of those only the launcher's
commands and its upload. Ports, sockets, agents, displays, terminals and shells are not there to be asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import asyncssh
import structlog

from provisioner.gateway.admissions import Admission, Admissions
from provisioner.gateway.carrying import Carrying
from provisioner.gateway.grammar import Ask, Refused, understand
from provisioner.gateway.jar import Jar
from provisioner.gateway.scp import Scp, ScpError
from provisioner.gateway.sftp import Sftp, SftpError
from provisioner.model.errors import LaunchError

log = structlog.get_logger()

HostKey: TypeAlias = asyncssh.SSHKey

LOGIN_S = 20.0
#: Connections that have not logged in; of more than these the oldest goes, so that a newcomer always gets a turn.
MOST_WAITING = 256
MOST_TRIES = 6
MOST_CHANNELS = 16  # of one connection at the same time; the launcher has one, seldom two
_BACKLOG = 1024
_KEEP_ALIVE_S = 15.0
_KEEP_ALIVE_TRIES = 4
_WINDOW = 4 << 20
_JAVA_S = 60.0
_LOG_NOTE = b"# commands are read by the provisioner's gateway; no shell runs them\n"

#: What Jenkins' SSH library can do, the quickest first.
_EXCHANGES = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")


class Door:
    """The server at its port.

    Args:
        admissions: who may come in.
    """

    def __init__(self, admissions: Admissions) -> None:
        self._admissions = admissions
        self._waiting: dict[_Connection, None] = {}  # in the order in which they came
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.dropped = 0

    async def open(self, host: str, port: int, host_key: HostKey) -> int:
        """Listen; the port.

        Raises:
            OSError: the port cannot be had.
        """
        self._acceptor = await asyncssh.create_server(
            lambda: _Connection(self, self._admissions),
            host,
            port,
            config=[],
            server_host_keys=[host_key],
            server_version="JenkinsProvisionerGateway",
            backlog=_BACKLOG,
            reuse_address=True,
            public_key_auth=True,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            gss_kex=False,
            gss_auth=False,
            kex_algs=_EXCHANGES,
            encryption_algs=_CIPHERS,
            mac_algs=_MACS,
            compression_algs=["none"],
            login_timeout=LOGIN_S,
            keepalive_interval=_KEEP_ALIVE_S,
            keepalive_count_max=_KEEP_ALIVE_TRIES,
            allow_pty=False,
            line_editor=False,
            x11_forwarding=False,
            agent_forwarding=False,
            encoding=None,
            window=_WINDOW,
        )
        return int(self._acceptor.get_port())

    async def close(self) -> None:
        """Let nobody in any more; those who are in stay."""
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()

    def came(self, connection: _Connection) -> None:
        """Somebody dialled and has not logged in."""
        self._waiting[connection] = None
        if len(self._waiting) > MOST_WAITING:
            oldest = next(iter(self._waiting))
            self.dropped += 1
            oldest.hang_up()
            self.went(oldest)

    def went(self, connection: _Connection) -> None:
        """They logged in, or went."""
        self._waiting.pop(connection, None)


class _Connection(asyncssh.SSHServer):
    """One connection. Whatever it asks for beyond a session is refused by the library's own defaults."""

    def __init__(self, door: Door, admissions: Admissions) -> None:
        self._door = door
        self._admissions = admissions
        self._user = ""
        self._tries = 0
        self._key = b""
        self._admission: Admission | None = None
        self._jar: Jar | None = None
        self._channels = 0
        self._conn: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._door.came(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the library's)
        self._door.went(self)
        if self._admission is not None:
            self._admission.left(self)

    def hang_up(self) -> None:
        if self._conn is not None:
            self._conn.abort()

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._tries += 1
        if self._tries > MOST_TRIES:
            self.hang_up()
            return False
        found = self._admissions.get(username)
        self._key = key.public_data
        welcome = found is not None and found.welcome(self._key)
        if not welcome:
            log.info("login.refused", user=username[:80], known=found is not None)
        return welcome

    def auth_completed(self) -> None:
        self._door.went(self)
        found = self._admissions.get(self._user)
        if found is None or not found.welcome(self._key) or not found.claim(self, self.hang_up):
            log.info("login.refused", user=self._user[:80], known=found is not None)
            self.hang_up()
            return
        self._admission = found
        self._jar = Jar(found.jar)

    def session_requested(self) -> _Session | bool:
        if self._admission is None or self._jar is None or self._channels >= MOST_CHANNELS:
            return False
        self._channels += 1
        return _Session(self._admission, self._jar, self._closed)

    def _closed(self) -> None:
        self._channels -= 1


class _Session(asyncssh.SSHServerSession[bytes]):
    """One channel: one command of the launcher, or its upload."""

    def __init__(self, admission: Admission, jar: Jar, on_closed: Any) -> None:
        self._admission = admission
        self._jar = jar
        self._on_closed = on_closed
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._ask: Ask | None = None
        self._part: Carrying | Sftp | Scp | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what may be asked for

    def shell_requested(self) -> bool:
        return self._refuse("a shell")

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            return self._refuse(f"the subsystem {subsystem[:40]!r}")
        self._part = Sftp(self._admission.root, self._jar)
        return True

    def exec_requested(self, command: str) -> bool:
        asked = understand(command, self._admission.root)
        if isinstance(asked, Refused):
            return self._refuse(f"{command[:200]!r}: {asked.reason}")
        if asked is Ask.UPLOAD:
            self._part = Scp(self._jar)
        elif asked is Ask.AGENT:
            if self._jar.size is None:
                return self._refuse("the agent, before its jar came")
            self._part = Carrying(self._admission, self)
        self._ask = asked
        return True

    def _refuse(self, what: str) -> bool:
        log.warning("request.refused", agent=self._admission.agent, request=what)
        return False

    # -- its life

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan

    def session_started(self) -> None:
        match self._part:
            case Carrying():
                self._spawn(self._part.run())
            case Scp():
                self.send(self._part.begin())
            case Sftp():
                pass
            case None:
                self._spawn(self._say())

    async def _say(self) -> None:
        """Answer a command that is only looked at."""
        match self._ask:
            case Ask.ENVIRONMENT:
                self.send(_LOG_NOTE)
                self.exit(0)
            case Ask.VERSION:
                lines = await self._java_says()
                self.send_error("".join(f"{line}\n" for line in lines).encode())
                self.exit(0 if lines else 127)
            case Ask.FORGET:
                self.exit(0 if self._jar.forget() else 1)
            case _:
                self.exit(0)

    async def _java_says(self) -> tuple[str, ...]:
        """What the instance's own Java says about itself: it is started so that it does."""
        try:
            channel = await self._admission.opened()
            async with asyncio.timeout(_JAVA_S):
                while not any('version "' in line for line in channel.said()):  # noqa: ASYNC110  (no event tells)
                    await asyncio.sleep(0.05)
        except (LaunchError, TimeoutError):
            return ()
        said = channel.said()
        first = next(n for n, line in enumerate(said) if 'version "' in line)
        return said[first : first + 3]

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002  (the library's)
        try:
            match self._part:
                case Carrying():
                    self._part.received(data)
                case Sftp() | Scp():
                    self.send(self._part.feed(data))
                case None:
                    pass  # its command takes no input
        except (SftpError, ScpError) as error:
            log.warning("upload.refused", agent=self._admission.agent, problem=str(error))
            if isinstance(error, ScpError):
                self.send(b"\2" + str(error).encode() + b"\n")
            self.exit(1)

    def eof_received(self) -> bool:
        if isinstance(self._part, Carrying):
            self._part.input_ended()
        elif self._part is not None:
            self.exit(0)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the library's)
        self._chan = None
        self._writable.set()
        if isinstance(self._part, Carrying):
            self._part.input_ended()
        self._on_closed()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- the wire of `Carrying`

    def send(self, data: bytes) -> None:
        """Send output; nobody there is done."""
        if self._chan is not None and data:
            with contextlib.suppress(OSError):
                self._chan.write(data)

    def send_error(self, data: bytes) -> None:
        """Send standard error; nobody there is done."""
        if self._chan is not None and data:
            with contextlib.suppress(OSError):
                self._chan.write_stderr(data)

    async def drained(self) -> None:
        """Wait until the other side takes more."""
        await self._writable.wait()

    def hold(self) -> None:
        """Take no more from the other side."""
        if self._chan is not None:
            self._chan.pause_reading()

    def go_on(self) -> None:
        """Take from the other side again."""
        if self._chan is not None:
            self._chan.resume_reading()

    def exit(self, code: int) -> None:
        """End the channel."""
        if self._chan is not None and not self._chan.is_closing():
            with contextlib.suppress(OSError):
                self._chan.exit(code)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("session.fault", agent=self._admission.agent, error=repr(error), exc_info=error)
            self.exit(255)


def host_key(path: Path) -> HostKey:
    """The gateway's own key: made once, mode 0600, and pinned in every node."""
    if not path.exists():
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        part.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        part.replace(path)
    return asyncssh.read_private_key(path)


def public_line(key: HostKey) -> str:
    """The public half as it stands in a known-hosts file: `ssh-ed25519 AAAA…`."""
    kind, data, *_ = key.export_public_key().decode().split()
    return f"{kind} {data}"


def key_data(line: str) -> bytes:
    """The bytes of a public key.

    Raises:
        ValueError: it is none.
    """
    try:
        return bytes(asyncssh.import_public_key(line).public_data)
    except asyncssh.KeyImportError as error:
        raise ValueError("this is no public key; write one such as `ssh-ed25519 AAAA…`") from error
