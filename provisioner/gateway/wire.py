"""What sidecar and gateway say to each other: a line of JSON for each question and answer. No secret is among it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.backends.catalogue import ProviderSettings
from provisioner.model.errors import LaunchError, Reason

#: Raised when one side could no longer understand the other. `hello`, `agents`, `revoke` and `retire` never change,
#: so that a new sidecar can part from any old gateway.
PROTOCOL = 1
MOST_LINE = 1 << 20

_SOCKET = "control.sock"
_LOCK = "lock"
_MOST_PATH = 100  # a socket's own limit is 108 bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """Files of an encrypted endpoint."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ssh:
    """Files of an endpoint over SSH."""

    key: str | None
    known_hosts: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A provider, as far as a channel into its instances needs it."""

    name: str
    backend: str
    endpoint: str | None
    network: str | None
    runtime: str | None
    java: str
    work_dir: str | None
    tls: Tls | None
    ssh: Ssh | None
    timeout_s: float
    ssh_host: None = None  # channels need no address


def dump_place(provider: ProviderSettings, work_dir: Path) -> dict[str, object]:
    """A provider for the wire."""
    tls, ssh = provider.tls, provider.ssh
    return {
        "name": provider.name,
        "backend": str(provider.backend),
        "endpoint": provider.endpoint,
        "network": provider.network,
        "runtime": provider.runtime,
        "java": provider.java,
        "work_dir": str(work_dir.absolute()),
        "tls": {"ca": tls.ca, "cert": tls.cert, "key": tls.key} if tls else None,
        "ssh": {"key": ssh.key, "known_hosts": ssh.known_hosts} if ssh else None,
        "timeout_s": provider.timeout_s,
    }


def load_place(data: Mapping[str, Any]) -> Place:
    """A provider from the wire. Raises TypeError or KeyError if it is none."""
    files = {
        "tls": Tls(**data["tls"]) if data["tls"] else None,
        "ssh": Ssh(**data["ssh"]) if data["ssh"] else None,
    }
    return Place(**{**data, **files})


def line(message: Mapping[str, object]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def dump_error(error: LaunchError) -> dict[str, object]:
    """An error for the wire."""
    return {
        "message": error.message,
        "reason": error.reason.value,
        "retryable": error.retryable,
        "tail": list(error.tail),
    }


def load_error(data: Mapping[str, Any]) -> LaunchError:
    """An error from the wire."""
    known = {reason.value for reason in Reason}
    reason = Reason(data["reason"]) if data.get("reason") in known else Reason.INTERNAL_ERROR
    return LaunchError(
        str(data.get("message")),
        reason=reason,
        retryable=bool(data.get("retryable")),
        tail=tuple(map(str, data.get("tail") or ())),
    )


def socket_in(folder: Path) -> Path:
    """Where the control socket is."""
    return folder / _SOCKET


def lock_in(folder: Path) -> Path:
    """Who holds this file is the gateway of the folder."""
    return folder / _LOCK


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """The path of a socket, or a short way to it if it is too long for a socket."""
    if len(os.fsencode(path.absolute())) <= _MOST_PATH:
        yield str(path.absolute())
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
