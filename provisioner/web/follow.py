"""Launch logs as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from aiohttp import web

from provisioner.lifecycle.operations import Operations
from provisioner.web.answers import problem

#: A comment this often, so that a reader that went away is noticed.
_HEARTBEAT_S = 15.0
MOST_FOLLOWERS = 100


class Followers:
    """Everybody who follows a log now; `close` lets them go when the server stops."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    async def stream(self, request: web.Request, operations: Operations, name: str, since: int) -> web.StreamResponse:
        """An event for each line, then `end`; `id` is the line's number.

        The data of a line is JSON: `n`, `at`, `text`; that of `end` has `state` and `reason`.
        """
        if len(self._tasks) >= MOST_FOLLOWERS:
            return problem(503, f"{MOST_FOLLOWERS} readers follow logs already; try again later")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a handler always runs in one)
        self._tasks.add(task)
        try:
            return await _stream(request, operations, name, since)
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        """End every stream."""
        for task in tuple(self._tasks):
            task.cancel()


async def _stream(request: web.Request, operations: Operations, name: str, since: int) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    async for lines in operations.follow(name, since, _HEARTBEAT_S):
        if lines:
            events = [_event("line", {"n": n, "at": at, "text": text}, n) for n, at, text in lines]
            await response.write("".join(events).encode(errors="replace"))
        else:
            await response.write(b":\n\n")
    agent = operations.agent(name)
    ended = {"state": agent.state.value, "reason": agent.reason.value if agent.reason else None}
    await response.write(_event("end", ended).encode())
    await response.write_eof()
    return response


def _event(kind: str, data: Mapping[str, object], number: int | None = None) -> str:
    numbered = "" if number is None else f"id: {number}\n"
    return f"{numbered}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
