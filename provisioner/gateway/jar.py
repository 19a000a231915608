"""The one file that the launcher brings: the agent's jar, which the instance has already (pure).

Its content is only compared with the controller's own `agent.jar`; it is written nowhere.
"""

from __future__ import annotations

import hashlib

MOST_BYTES = 64 << 20


class JarError(Exception):
    """What arrived is not the file that may arrive."""


class Jar:
    """The uploaded jar of one connection.

    Args:
        digest: SHA-256 of the only content that is taken, as hexadecimal digits.
    """

    def __init__(self, digest: str) -> None:
        self._wanted = digest
        self._hash = hashlib.sha256()
        self.size: int | None = None  # None: there is no such file

    def begin(self) -> None:
        """An empty file, whatever was there."""
        self._hash, self.size = hashlib.sha256(), 0

    def forget(self) -> bool:
        """Remove it; False if there was none."""
        there, self.size = self.size is not None, None
        return there

    def write(self, offset: int, data: bytes) -> None:
        """The next piece.

        Raises:
            JarError: it is not the next one, or one too many.
        """
        if self.size is None or offset != self.size:
            raise JarError("the file is written from front to end only")
        if self.size + len(data) > MOST_BYTES:
            raise JarError(f"the file is larger than {MOST_BYTES >> 20} MiB")
        self._hash.update(data)
        self.size += len(data)

    def check(self) -> None:
        """It is complete.

        Raises:
            JarError: it is not the controller's agent.jar as the instance has it.
        """
        if self._hash.hexdigest() != self._wanted:
            self.size = None
            raise JarError("this is not the agent.jar with which the instance was started")
