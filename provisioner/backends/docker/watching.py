"""The engine's own events: ends of our containers as they happen."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping

from provisioner.backends.contract import AGENT_KEY, OWNER_KEY, Ended
from provisioner.backends.docker.engine import Engine, RefusedError, Stream
from provisioner.backends.docker.faults import read_error
from provisioner.model.errors import LaunchError, Reason

#: `oom` is not among them: it tells that some process in the container was killed, and the container may go on.
_ENDS = ("die", "destroy")


class _Reader:
    """Reads the stream in a thread of its own, since it is silent for as long as nothing ends."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._closed = False
        self.seen: asyncio.Queue[Ended | LaunchError] = asyncio.Queue()

    def run(self) -> None:
        query = {"filters": json.dumps({"type": ["container"], "event": list(_ENDS), "label": [OWNER_KEY]})}
        try:
            stream = self._engine.stream("GET", "/events", query=query, silence_s=None)
            with self._lock:
                self._stream = stream
                if self._closed:
                    stream.close()
            for event in stream:
                actor = event.get("Actor")
                labels = actor.get("Attributes") if isinstance(actor, Mapping) else None
                if isinstance(labels, Mapping) and labels.get(AGENT_KEY):
                    self._tell(Ended(agent=str(labels[AGENT_KEY])))
        except RefusedError as refused:
            self._tell(read_error(refused, "events"))
        except LaunchError as error:
            self._tell(error)
        else:
            self._tell(
                LaunchError(
                    "the stream of the Docker engine's events ended; it is asked for again",
                    reason=Reason.PROVIDER_UNREACHABLE,
                    retryable=True,
                )
            )

    def _tell(self, what: Ended | LaunchError) -> None:
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.seen.put_nowait, what)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._stream is not None:
                self._stream.close()


async def ends(engine: Engine) -> AsyncIterator[Ended]:
    """Ends of all containers with a mark of ours, whoever the owner.

    Raises:
        LaunchError: provider_unreachable; the stream broke.
    """
    reader = _Reader(engine, asyncio.get_running_loop())
    threading.Thread(target=reader.run, name="docker-events", daemon=True).start()
    try:
        while True:
            seen = await reader.seen.get()
            if isinstance(seen, LaunchError):
                raise seen
            yield seen
    finally:
        reader.close()
