"""Sees processes end: those of this sidecar, and those that an earlier one started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from provisioner.backends.contract import Ended
from provisioner.backends.process.folder import Folder
from provisioner.backends.process.proc import ProcessId, alive, reap

_POLL_S = 0.5  # only where the system has no process file descriptors


@dataclass(frozen=True, slots=True)
class _Watched:
    folder: Folder
    process: ProcessId
    handle: int | asyncio.Task[None]


class Exits:
    """Watches launchers, reaps those that are our children, and tells every listener."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._listeners: set[asyncio.Queue[Ended]] = set()

    def watch(self, folder: Folder, process: ProcessId) -> None:
        """Tell when this process ends; at once if it did already. Watching it twice does nothing."""
        known = self._watched.get(folder.agent)
        if known is not None:
            if known.process == process:
                return
            self._drop(known)
        loop = asyncio.get_running_loop()
        handle: int | asyncio.Task[None]
        if hasattr(os, "pidfd_open"):
            try:
                handle = os.pidfd_open(process.pid)
            except OSError:
                self._ended(folder, process)
                return
            loop.add_reader(handle, self._readable, folder.agent)
        else:  # pragma: no cover  (no Linux)
            handle = loop.create_task(self._poll(folder, process))
        self._watched[folder.agent] = _Watched(folder, process, handle)

    async def _poll(self, folder: Folder, process: ProcessId) -> None:  # pragma: no cover  (no Linux)
        while alive(process):
            code = reap(process.pid)
            if code is not None:
                folder.save_exit_code(code)
                break
            await asyncio.sleep(_POLL_S)
        self._watched.pop(folder.agent, None)
        self._ended(folder, process)

    def _readable(self, agent: str) -> None:
        watched = self._watched.pop(agent)
        self._drop(watched)
        self._ended(watched.folder, watched.process)

    def _ended(self, folder: Folder, process: ProcessId) -> None:
        code = reap(process.pid)
        if code is not None:
            folder.save_exit_code(code)
        for listener in self._listeners:
            listener.put_nowait(Ended(agent=folder.agent))

    def _drop(self, watched: _Watched) -> None:
        if isinstance(watched.handle, int):
            asyncio.get_running_loop().remove_reader(watched.handle)
            os.close(watched.handle)
        else:  # pragma: no cover  (no Linux)
            watched.handle.cancel()

    async def listen(self) -> AsyncIterator[Ended]:
        """Ends as they happen."""
        queue: asyncio.Queue[Ended] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    def close(self) -> None:
        """Watch nothing any more; the processes live on."""
        while self._watched:
            self._drop(self._watched.popitem()[1])
