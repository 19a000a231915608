"""The processes of this machine, as any program sees them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def processes() -> list[tuple[str, str]]:
    """Command line and environment of every process that may be seen."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append(
                    tuple((folder / f).read_bytes().decode("utf-8", "replace") for f in ("cmdline", "environ"))
                )
            except OSError:
                continue
    return [(cmd, environ) for cmd, environ in found]


def agents_of(owner: str) -> list[int]:
    """Processes of agents: launcher, agent, and what its build started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"JENKINS_PROVISIONER_OWNER={owner}".encode() in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def gateways(folder: Path) -> list[int]:
    """The ids of the SSH gateways that have their files below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"provisioner.gateway" in words and any(word.startswith(f"{folder}/".encode()) for word in words):
                found.append(int(entry.name))
    return found


def end_gateways(folder: Path) -> None:
    """End them: they outlive their sidecar on purpose."""
    for gateway in gateways(folder):
        with suppress(ProcessLookupError):
            os.kill(gateway, signal.SIGTERM)
