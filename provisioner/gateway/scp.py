"""As much of SCP as the launcher falls back on: one file is received (pure)."""

from __future__ import annotations

from provisioner.gateway.grammar import JAR_NAME
from provisioner.gateway.jar import Jar, JarError

_MOST_LINE = 1024
_OK = b"\0"


class ScpError(Exception):
    """What arrives is not what may arrive; the session has to end. The text is for the other side."""


class Scp:
    """The receiving side of one `scp -t`: bytes in, bytes out.

    Args:
        jar: the file that may be written.
    """

    def __init__(self, jar: Jar) -> None:
        self._jar = jar
        self._buffer = bytearray()
        self._left: int | None = None  # of the file that is being received
        self._at = 0

    def begin(self) -> bytes:
        """What the receiver says first."""
        return _OK

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; what to answer.

        Raises:
            ScpError: it is not the launcher's.
        """
        self._buffer += data
        answers = b""
        try:
            while self._buffer:
                if self._left is None:
                    if (line := self._line()) is None:
                        break
                    answers += self._order(line)
                elif self._left:
                    piece = bytes(self._buffer[: self._left])
                    del self._buffer[: len(piece)]
                    self._jar.write(self._at, piece)
                    self._at, self._left = self._at + len(piece), self._left - len(piece)
                else:
                    del self._buffer[:1]  # the sender says that it is all
                    self._left = None
                    self._jar.check()
                    answers += _OK
        except JarError as error:
            raise ScpError(str(error)) from error
        return answers

    def _line(self) -> str | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > _MOST_LINE:
                raise ScpError("a line is too long")
            return None
        line = self._buffer[:end].decode(errors="replace")
        del self._buffer[: end + 1]
        return line

    def _order(self, line: str) -> bytes:
        kind, _, name = line.partition(" ")
        size, _, name = name.partition(" ")
        if line.startswith("T") or line == "E":
            return _OK
        if not (kind.startswith("C") and kind[1:].isdigit() and size.isdigit() and name == JAR_NAME):
            raise ScpError("only the agent's jar can be sent")
        self._jar.begin()
        self._left, self._at = int(size), 0
        return _OK
