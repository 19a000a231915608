"""Loans: static nodes that serve another controller for a while."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from provisioner.config.part import Part
from provisioner.config.values import Duration, Name, Text

_ADDRESS = re.compile(r"[^@\s:/]+@(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_HOST_KEY = re.compile(r"(?:ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,3}(?: .*)?", re.ASCII)
_FOLDER = re.compile(r"[A-Za-z0-9_.+@/ -]+", re.ASCII)


def _address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise ValueError("is no account on a machine; write USER@HOST or USER@HOST:PORT")
    return value


def _host_key(value: str) -> str:
    if not _HOST_KEY.fullmatch(value.strip()):
        raise ValueError(
            "is no host key; write what `ssh-keyscan HOST` prints behind the host, such as `ssh-ed25519 AAAA…`"
        )
    return value.strip()


def _folder(value: str) -> str:
    if not _FOLDER.fullmatch(value) or ".." in value.split("/"):
        raise ValueError("is no usable folder; write an absolute path, or one below the node's root folder, without ..")
    return value


class LoanMachine(Part):
    """How the machine of one static node is reached over SSH."""

    controller: Name = Field(description="controller that the node belongs to")
    node: Text = Field(description="name of the node there")
    ssh: Annotated[str, AfterValidator(_address)] = Field(description="account on its machine: USER@HOST[:PORT]")
    key: Text = Field(description="file of the private key for that account, without a passphrase")
    host_key: Annotated[str, AfterValidator(_host_key)] = Field(
        description="the machine's public host key, such as ssh-ed25519 AAAA…; any other is refused"
    )
    java: Text = Field("java", description="Java executable there that runs the borrower's agent")


class Loans(Part):
    """Static nodes that are lent to another controller of this file."""

    interval_s: Annotated[Duration, Field(ge=1)] = Field(
        60.0, alias="interval", description="time between two looks of the sidecar at all loans, at least 1s"
    )
    lease_s: Annotated[Duration, Field(gt=0)] = Field(
        28800.0, alias="lease", description="how long a loan lasts if `--for` does not say it, more than 0"
    )
    absent_after_s: Annotated[Duration, Field(gt=0)] = Field(
        3600.0,
        alias="absent_after",
        description="a loan ends when its borrower has not answered for this long, more than 0",
    )
    grace_s: Annotated[Duration, Field(ge=0)] = Field(
        3600.0, alias="grace", description="how long the borrower's builds may go on after the end of a loan"
    )
    connect_s: Annotated[Duration, Field(gt=0)] = Field(
        120.0,
        alias="connect",
        description="a loan is undone when the borrower's agent is not connected within this time, more than 0",
    )
    folder: Annotated[str, AfterValidator(_folder)] = Field(
        "loans",
        description="folder on the machine for the borrower's agent and its builds; a relative path begins at the "
        "node's root folder",
    )
    machines: tuple[LoanMachine, ...] = Field(
        (),
        description="machines whose borrower's agent is started over SSH; that of any other node is started through "
        "the script console of its controller, which needs Administer",
    )
