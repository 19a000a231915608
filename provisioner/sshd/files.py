"""What the launcher may do over SFTP: look at the agent's root, make it, and put its jar there."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh

from provisioner.sshd.commands import JAR


class RootFiles(asyncssh.SFTPServer):
    """Files of the agent's root and of nothing else.

    Args:
        channel: asyncssh's.
        root: the agent's root.
    """

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], root: Path) -> None:
        super().__init__(channel)
        self._root = root.resolve()

    def map_path(self, path: bytes) -> bytes:
        """The path itself, if it is the root, one of its parents, or the jar.

        Raises:
            asyncssh.SFTPPermissionDenied: it is another one.
        """
        asked = Path(os.path.normpath(Path("/") / os.fsdecode(path)))
        # no symbolic link leads out of it: a build may have left some
        real = asked if asked == self._root or asked in self._root.parents else asked.parent.resolve() / asked.name
        allowed = real == self._root or real in self._root.parents or real == self._root / JAR
        if not allowed or real.is_symlink():
            raise asyncssh.SFTPPermissionDenied(f"{asked} is none of the launcher's files")
        return os.fsencode(real)

    def refused(self, *_args: object) -> None:
        """Nothing that the launcher does."""
        raise asyncssh.SFTPPermissionDenied("the launcher does not do that")

    rename = posix_rename = symlink = link = readlink = rmdir = refused  # type: ignore[assignment]
