"""`provisioner run` whose instances are files: thousands of agents without thousands of processes.

The agents themselves are simulated by the stand-in (`standin/scale`). Everything else is the product: records, HTTP,
bridge, loops. The files outlive the sidecar, as instances do.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from provisioner.backends.contract import (
    Checkpoint,
    Ended,
    Found,
    InstanceState,
    Listing,
    Order,
    Progress,
    Stats,
    Status,
)
from provisioner.commands import main as program
from provisioner.model.errors import LaunchError, Reason
from provisioner.sidecar import assembly


class LightBackend:
    """A folder with a file for each instance; a file named `down` in it is an outage of the provider."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dead: dict[str, None] = {}

    def _check(self) -> None:
        if (self._folder / "down").exists():
            raise LaunchError("the provider does not answer", reason=Reason.PROVIDER_UNREACHABLE, retryable=True)

    def _file(self, agent: str) -> Path:
        return self._folder / f"{agent}.instance"

    async def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._check()

    async def close(self) -> None:
        return None

    async def ping(self) -> str:
        self._check()
        return "a folder"

    async def verify(self, order: Order) -> tuple[str, ...]:
        return ()

    def remote_root(self, owner: str, agent: str, remote_fs: str) -> str:
        return "/tmp"

    async def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        self._check()
        if order.agent in self._dead:
            raise LaunchError("it was stopped before its start", reason=Reason.CANCELLED)
        yield Checkpoint(key="file", value=order.agent)
        self._check()
        if order.agent in self._dead:
            raise LaunchError("it was stopped before its start", reason=Reason.CANCELLED)
        self._file(order.agent).write_text(order.owner)
        yield Progress(text=f"File {order.agent} made")

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        self._dead[agent] = None
        while len(self._dead) > 1000:
            del self._dead[next(iter(self._dead))]
        self._check()
        self._file(agent).unlink(missing_ok=True)

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:
        self._check()
        there = self._file(agent).exists()
        return Status(state=InstanceState.RUNNING if there else InstanceState.MISSING)

    async def stats(self, agent: str, ids: Mapping[str, str]) -> Stats:
        return Stats()

    async def log_tail(self, agent: str, ids: Mapping[str, str], lines: int = 20) -> tuple[str, ...]:
        return ()

    async def listing(self, owner: str) -> Listing:
        self._check()
        found = tuple(Found(kind="file", id=p.stem, agent=p.stem) for p in self._folder.glob("*.instance"))
        return Listing(found=found, complete=True)

    async def remove_found(self, found: Found) -> None:
        self._check()
        self._file(found.agent).unlink(missing_ok=True)

    async def events(self) -> AsyncIterator[Ended]:
        while True:
            await asyncio.sleep(2.0)
            self._check()
        yield Ended(agent="")  # it makes this a generator


def make_light(provider: Any, **_more: object) -> LightBackend:
    return LightBackend(Path(provider.work_dir))


if __name__ == "__main__":
    vars(assembly).update(make_backend=make_light)
    sys.exit(program.main(sys.argv[1:]))
