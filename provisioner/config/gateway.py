"""The SSH server of the transport `ssh-gateway`."""

from __future__ import annotations

from pydantic import Field

from provisioner.config.part import Part
from provisioner.config.values import HostPort, Listen, split_host_port, split_listen

_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  (what a file may say)


class Gateway(Part):
    """Where the gateway listens, and where controllers find it."""

    listen: Listen = Field(
        "127.0.0.1:0",
        description="host:port at which it listens for controllers; port 0 takes a free one, the same each time",
    )
    address: HostPort | None = Field(
        None, description="host or host:port as the controllers reach the gateway; default: as it listens"
    )

    @property
    def place(self) -> tuple[str, int]:
        """Host and port to listen at; port 0: a free one."""
        return split_listen(self.listen)

    @property
    def told(self) -> tuple[str, int] | None:
        """Host and port that the controllers are told; port 0: the one at which it listens; None: as it listens."""
        return split_host_port(self.address) if self.address else None

    @property
    def anywhere(self) -> bool:
        """Whether it listens at every address of the machine, so that none of them can be told by itself."""
        return self.place[0] in _ANYWHERE
