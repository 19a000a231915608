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
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w")  # noqa: SIM115  (closed by `content`)

    def file(self, path: str, content: bytes, *, uid: int, gid: int = 0, mode: int, mtime: int | None = None) -> None:
        """Add a file, dated `mtime` or now; missing folders above it are made by the engine, for root."""
        entry = self._entry(path, uid, mode)
        entry.gid = gid
        if mtime is not None:
            entry.mtime = mtime
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def folder(self, path: str, *, uid: int, gid: int, mode: int) -> None:
        """Add a folder; one that exists keeps its content and gets this owner and mode."""
        entry = self._entry(path, uid, mode)
        entry.type, entry.gid = tarfile.DIRTYPE, gid
        self._tar.addfile(entry)

    def link(self, path: str, target: str, *, uid: int, gid: int) -> None:
        """Add a symbolic link; what had the path is replaced."""
        entry = self._entry(path, uid, 0o777)
        entry.type, entry.gid, entry.linkname = tarfile.SYMTYPE, gid, target
        self._tar.addfile(entry)

    def content(self) -> bytes:
        """The finished archive."""
        self._tar.close()
        return self._buffer.getvalue()

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
