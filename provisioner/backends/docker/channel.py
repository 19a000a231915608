"""The channel of a container: its streams as the engine carries them over a connection of their own."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlsplit

from provisioner.backends.docker.engine import Engine, RefusedError
from provisioner.backends.docker.faults import start_error
from provisioner.backends.docker.ssh_stream import by_ssh
from provisioner.model.errors import LaunchError, Reason

_DIAL_S = 10.0
_PIECE_BYTES = 256 * 1024
_UNSEEN_S = 1.0
_LINES = 20
_LINE_BYTES = 4096
_QUERY = "stream=1&stdin=1&stdout=1&stderr=1"
_HEADER_BYTES = 8
_OUTPUT, _ERRORS = 1, 2


class AttachedChannel:
    """A container's streams.

    Args:
        agent: for messages.
        reader: what the engine sends: frames of output and standard error.
        writer: what the engine gives the command to read.
        kill: ends the container.
    """

    def __init__(
        self,
        agent: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        kill: Callable[[], Awaitable[None]],
    ) -> None:
        self._agent = agent
        self._reader, self._writer = reader, writer
        self._kill = kill
        self._frame_left = 0  # bytes of the frame of output that is being read
        self._ended = False
        self._reading = asyncio.Lock()  # `close` reads, too
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_LINES)
        self._line = b""

    async def read(self) -> bytes:
        """Next output; standard error is kept aside."""
        async with self._reading:
            while not self._ended:
                try:
                    if data := await self._next():
                        return data
                except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                    self._ended = True
                    if self._line:
                        self._told(b"\n")
            return b""

    async def _next(self) -> bytes:
        """Output, or nothing if it was something else."""
        if self._frame_left == 0:
            header = await self._reader.readexactly(_HEADER_BYTES)
            length = int.from_bytes(header[4:], "big")
            if header[0] != _OUTPUT:
                while length > 0:
                    piece = await self._some(length)
                    length -= len(piece)
                    if header[0] == _ERRORS:
                        self._told(piece)
                return b""
            self._frame_left = length
        data = await self._some(self._frame_left) if self._frame_left else b""
        self._frame_left -= len(data)
        return data

    async def _some(self, most: int) -> bytes:
        data = await self._reader.read(min(most, _PIECE_BYTES))
        if not data:
            raise asyncio.IncompleteReadError(b"", most)
        return data

    def _told(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-_LINE_BYTES:]
        for line in lines:
            text = line[-_LINE_BYTES:].decode(errors="replace").rstrip("\r")
            if len(self._first) < _LINES:
                self._first.append(text)
            self._last.append(text)

    async def write(self, data: bytes) -> None:
        """To the engine, at the command's pace."""
        if self._ended or self._writer.is_closing():
            raise BrokenPipeError(f"the channel of {self._agent} is closed")
        self._writer.write(data)
        await self._writer.drain()

    def said(self) -> tuple[str, ...]:
        """The first lines of standard error."""
        return tuple(self._first)

    def last_words(self) -> tuple[str, ...]:
        """The last lines of standard error."""
        return tuple(self._last)

    async def close(self, grace_s: float = 5.0) -> None:
        """End its input; kill the container if it does not end."""
        try:
            if not self._writer.can_write_eof():
                # TLS ends in both directions at once, so that nothing shows when the command is done
                self.let_go()
                await asyncio.sleep(min(grace_s, _UNSEEN_S))
                await self._kill()
                return
            if not self._writer.is_closing():
                self._writer.write_eof()
            async with asyncio.timeout(grace_s):
                while await self.read():
                    continue
        except (TimeoutError, OSError):
            pass
        try:
            if not self._ended:
                await self._kill()
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close the connection, which ends the command's input."""
        self._writer.transport.abort()  # what was not taken yet would keep it open


async def attach(engine: Engine, agent: str, container: str, kill: Callable[[], Awaitable[None]]) -> AttachedChannel:
    """Attach to a container that was made and not started, so that nothing of its output is lost.

    Raises:
        LaunchError: the engine does not answer, or refuses.
    """
    version = await asyncio.to_thread(engine.api)
    path = f"/v{version}/containers/{quote(container, safe='')}/attach?{_QUERY}"
    try:
        async with asyncio.timeout(_DIAL_S):
            reader, writer = await _dial(engine)
            try:
                head = f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
                answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                code = int(answer.split(" ", 2)[1])
                if code >= 400:
                    said = (await reader.read(2000)).decode(errors="replace").strip()
                    raise RefusedError(code, said or answer.splitlines()[0])
            except BaseException:
                writer.close()
                raise
    except RefusedError as refused:
        raise start_error(refused, agent) from refused
    except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise LaunchError(
            f"the Docker engine at {engine.endpoint} does not let us attach to {agent}: {error}; it is tried again",
            reason=Reason.PROVIDER_UNREACHABLE,
            retryable=True,
        ) from error
    return AttachedChannel(agent, reader, writer, kill)


async def _dial(engine: Engine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(engine.endpoint)
    if place.scheme == "ssh":
        return await asyncio.open_unix_connection(sock=await by_ssh(engine), limit=_PIECE_BYTES)
    if place.scheme == "unix":
        return await asyncio.open_unix_connection(engine.endpoint.removeprefix("unix://"), limit=_PIECE_BYTES)
    if place.scheme == "tcp":
        secured: ssl.SSLContext | None = None
        if engine.tls is not None:
            secured = ssl.create_default_context(cafile=engine.tls.ca)
            secured.load_cert_chain(engine.tls.cert, engine.tls.key)
        return await asyncio.open_connection(place.hostname, place.port or 2375, ssl=secured, limit=_PIECE_BYTES)
    raise LaunchError(
        f"the engine at {engine.endpoint} has no channels; use unix://, tcp:// or ssh://",
        reason=Reason.TEMPLATE_INVALID,
    )
