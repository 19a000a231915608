"""Files by which a backend proves itself to its provider; a configuration's provider names them."""

from __future__ import annotations

from typing import Protocol


class TlsFiles(Protocol):
    """Those of an encrypted endpoint."""

    @property
    def ca(self) -> str:
        """The authority that signed the engine's certificate."""
        ...

    @property
    def cert(self) -> str:
        """Our own certificate."""
        ...

    @property
    def key(self) -> str:
        """Our own private key."""
        ...


class SshFiles(Protocol):
    """Those of an ssh:// endpoint; where one is not given, those of the account that the sidecar runs as."""

    @property
    def key(self) -> str | None:
        """Our own private key."""
        ...

    @property
    def known_hosts(self) -> str | None:
        """Host keys as OpenSSH keeps them."""
        ...
