"""The archive by which files come into a container that has been made and not started.

It is unpacked below `/` with the container's volumes in place, so one request fills the secret volume and
makes the work folder with its owner, whatever the image's layout and wherever the engine is.
"""

from __future__ import annotations

import io
import tarfile
import time


class Archive:
    """A tar archive in the making."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def file(self, path: str, content: bytes, *, uid: int, gid: int = 0, mode: int, mtime: int | None = None) -> None:
        """Add a file, dated `mtime` or now; missing folders above it are made by the engine, for root."""
        entry = self._entry(path, uid, mode)
        entry.gid = gid
        if mtime is not None:
            entry.mtime = mtime
        entry.size = len(content)
        # joined once at the end: jars make it 20 MB, and `tarfile` would copy them three times, 16 kB at a time
        self._pieces += (self._head(entry), content, b"\0" * (-len(content) % tarfile.BLOCKSIZE))

    def folder(self, path: str, *, uid: int, gid: int, mode: int) -> None:
        """Add a folder; one that exists keeps its content and gets this owner and mode."""
        entry = self._entry(path, uid, mode)
        entry.type, entry.gid = tarfile.DIRTYPE, gid
        self._pieces.append(self._head(entry))

    def link(self, path: str, target: str, *, uid: int, gid: int) -> None:
        """Add a symbolic link; what had the path is replaced."""
        entry = self._entry(path, uid, 0o777)
        entry.type, entry.gid, entry.linkname = tarfile.SYMTYPE, gid, target
        self._pieces.append(self._head(entry))

    def content(self) -> bytes:
        """The finished archive."""
        return b"".join((*self._pieces, b"\0" * (2 * tarfile.BLOCKSIZE)))

    @staticmethod
    def _head(entry: tarfile.TarInfo) -> bytes:
        return entry.tobuf(tarfile.PAX_FORMAT, tarfile.ENCODING, "surrogateescape")

    def _entry(self, path: str, uid: int, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.uid, entry.mode, entry.mtime = uid, mode, int(time.time())
        return entry


def first_file(archive: bytes) -> bytes:
    """The content of the first plain file of an archive; empty if there is none."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for entry in tar:
            reader = tar.extractfile(entry) if entry.isfile() else None
            if reader is not None:
                return reader.read()
    return b""
