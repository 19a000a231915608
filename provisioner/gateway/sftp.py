"""As much of SFTP (version 3) as the launcher needs: a root folder and one file that can be written (pure).

There is no file system behind it, so there is nothing that a path or a link could lead to.
https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable
from enum import IntEnum

from provisioner.gateway.grammar import JAR_NAME
from provisioner.gateway.jar import Jar, JarError

#: Longer packets end the session. The launcher's have 32 KiB.
MOST_PACKET = 256 * 1024
_MOST_HANDLES = 8
_VERSION = 3
_HAS_SIZE, _HAS_MODE = 1, 4
_WRITE = 2  # flag of OPEN


class _Kind(IntEnum):
    INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(1, 11)
    REMOVE, MKDIR, REALPATH, STAT = 13, 14, 16, 17
    STATUS, HANDLE, NAME, ATTRS = 101, 102, 104, 105


class _Code(IntEnum):
    OK, END, NO_FILE, DENIED, FAILURE, BAD, _6, _7, UNSUPPORTED = range(9)


class _Answer(Exception):  # noqa: N818  (an answer, not a fault)
    def __init__(self, code: _Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class SftpError(Exception):
    """What arrives is not SFTP; the session has to end."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, form: str = ">I") -> int:
        size = struct.calcsize(form)
        if self._at + size > len(self._data):
            raise SftpError("a packet is too short")
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return int(value)

    def text(self) -> bytes:
        length = self.number()
        if self._at + length > len(self._data):
            raise SftpError("a packet is too short")
        found = self._data[self._at : self._at + length]
        self._at += length
        return found


class Sftp:
    """One SFTP session: bytes in, bytes out.

    Args:
        root: the agent's root folder, an absolute path.
        jar: the file that may be written there.
    """

    def __init__(self, root: str, jar: Jar) -> None:
        self._root = root.encode()
        self._file = self._root + b"/" + JAR_NAME.encode()
        self._jar = jar
        self._buffer = bytearray()
        self._greeted = False
        self._open: set[bytes] = set()
        self._count = 0
        self._acts: dict[int, Callable[[_Reader], bytes | tuple[_Kind, bytes]]] = {
            _Kind.OPEN: self._open_file,
            _Kind.CLOSE: self._close,
            _Kind.WRITE: self._write,
            _Kind.STAT: self._stat,
            _Kind.LSTAT: self._stat,
            _Kind.FSTAT: self._fstat,
            _Kind.SETSTAT: self._setstat,
            _Kind.FSETSTAT: self._fsetstat,
            _Kind.REMOVE: self._remove,
            _Kind.MKDIR: self._mkdir,
            _Kind.REALPATH: self._realpath,
        }

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; what to answer.

        Raises:
            SftpError: it is not SFTP.
        """
        self._buffer += data
        answers = bytearray()
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if not 1 <= length <= MOST_PACKET:
                raise SftpError(f"a packet of {length} bytes; at most {MOST_PACKET} are taken")
            if len(self._buffer) < 4 + length:
                break
            packet = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            answers += self._answer(packet)
        return bytes(answers)

    def _answer(self, packet: bytes) -> bytes:
        reader = _Reader(packet[1:])
        if not self._greeted:
            if packet[0] != _Kind.INIT:
                raise SftpError("the first packet is not a greeting")
            self._greeted = True
            return _packet(_Kind.VERSION, struct.pack(">I", _VERSION))
        number = reader.number()
        try:
            act = self._acts.get(packet[0])
            if act is None:
                # reading, listing, renaming, linking, and whatever else there may be
                raise _Answer(_Code.DENIED, "this server takes the agent's jar and does nothing else")
            answer = act(reader)
        except _Answer as told:
            return _status(number, told.code, str(told))
        except JarError as error:
            return _status(number, _Code.FAILURE, str(error))
        if isinstance(answer, tuple):
            kind, content = answer
            return _packet(kind, struct.pack(">I", number) + content)
        return _status(number, _Code.OK, answer.decode())

    def _open_file(self, reader: _Reader) -> tuple[_Kind, bytes]:
        path, flags = reader.text(), reader.number()
        if path != self._file:
            raise _Answer(_Code.DENIED, "this path is not open to you")
        if not flags & _WRITE:
            raise _Answer(_Code.DENIED if self._jar.size is not None else _Code.NO_FILE, "it can only be written")
        if len(self._open) >= _MOST_HANDLES:
            raise _Answer(_Code.FAILURE, "too many open files")
        self._jar.begin()
        self._count += 1
        handle = str(self._count).encode()
        self._open.add(handle)
        return _Kind.HANDLE, _text(handle)

    def _handle(self, reader: _Reader) -> bytes:
        handle = reader.text()
        if handle not in self._open:
            raise _Answer(_Code.FAILURE, "no such open file")
        return handle

    def _write(self, reader: _Reader) -> bytes:
        self._handle(reader)
        offset = reader.number(">Q")
        self._jar.write(offset, reader.text())
        return b"written"

    def _close(self, reader: _Reader) -> bytes:
        self._open.remove(self._handle(reader))
        self._jar.check()
        return b"closed"

    def _stat(self, reader: _Reader) -> tuple[_Kind, bytes]:
        path = reader.text()
        if path == self._file and self._jar.size is not None:
            return _Kind.ATTRS, _attributes(stat.S_IFREG | 0o444, self._jar.size)
        if path == self._root or self._root.startswith(path.rstrip(b"/") + b"/"):
            return _Kind.ATTRS, _attributes(stat.S_IFDIR | 0o755)
        raise _Answer(_Code.NO_FILE, "no such file")

    def _fstat(self, reader: _Reader) -> tuple[_Kind, bytes]:
        self._handle(reader)
        return _Kind.ATTRS, _attributes(stat.S_IFREG | 0o444, self._jar.size or 0)

    def _setstat(self, reader: _Reader) -> bytes:
        if reader.text() not in (self._file, self._root):
            raise _Answer(_Code.DENIED, "this path is not open to you")
        return b"left as it is"

    def _fsetstat(self, reader: _Reader) -> bytes:
        self._handle(reader)
        return b"left as it is"

    def _remove(self, reader: _Reader) -> bytes:
        if reader.text() != self._file:
            raise _Answer(_Code.DENIED, "this path is not open to you")
        if not self._jar.forget():
            raise _Answer(_Code.NO_FILE, "no such file")
        return b"removed"

    def _mkdir(self, reader: _Reader) -> bytes:
        raise _Answer(
            _Code.FAILURE if reader.text() == self._root else _Code.DENIED, "the agent's folder is there already"
        )

    def _realpath(self, reader: _Reader) -> tuple[_Kind, bytes]:
        path = reader.text()
        if path in (b".", b""):
            path = self._root
        if path not in (self._root, self._file):
            raise _Answer(_Code.DENIED, "this path is not open to you")
        return _Kind.NAME, struct.pack(">I", 1) + _text(path) + _text(path) + _attributes(stat.S_IFDIR | 0o755)


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _packet(kind: int, content: bytes) -> bytes:
    return struct.pack(">IB", len(content) + 1, kind) + content


def _status(number: int, code: int, text: str) -> bytes:
    return _packet(_Kind.STATUS, struct.pack(">II", number, code) + _text(text.encode()) + _text(b"en"))


def _attributes(mode: int, size: int | None = None) -> bytes:
    if size is None:
        return struct.pack(">II", _HAS_MODE, mode)
    return struct.pack(">IQI", _HAS_SIZE | _HAS_MODE, size, mode)
