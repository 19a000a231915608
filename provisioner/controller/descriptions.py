"""The launch log in the description of builds: the one place of a build that REST lets us write to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from provisioner.controller.rest import Rest
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError
from provisioner.model.queue import RequestKey

_log = structlog.get_logger(__name__)

PREFIX = "[provisioner] "
_LINES_KEPT = 200  # of one agent, until its build shows them
#: So long lines are gathered before they are shown: without the bridge an agent is seen connected and with its build
#: at once, and what is said of both may come with the next poll. Each time that they are shown costs requests.
_GATHER_S = 3.0
_CLOSING_S = 2.0
_REFUSALS_KEPT = 1000


@dataclass(kw_only=True, slots=True)
class _Log:
    """The launch log of one agent."""

    waiting: list[str]  # to be shown
    said: list[str]  # all of it
    build_url: str | None = None
    before: str | None = None  # the build's description as the poll saw it, where that tells
    shown: bool = False
    writing: bool = False


class Descriptions:
    """Keeps launch logs until their builds have begun, then shows them there; what is said later is added.

    It needs the permission Run/Update. Where it is missing for a job nothing is shown there, and that is logged once.
    """

    def __init__(self, http: Rest, pool: DaemonPool) -> None:
        self._http = http
        self._pool = pool
        self._logs: dict[str, _Log] = {}  # by agent
        self._agent_of: dict[RequestKey, str] = {}
        self._refused: deque[str] = deque(maxlen=_REFUSALS_KEPT)  # jobs
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    def expect(self, agent: str, request: RequestKey | None, lines: Sequence[str]) -> None:
        """An agent is on its way to a request; saying so again, after a registration that failed, changes nothing."""
        if agent not in self._logs:
            self._logs[agent] = _Log(waiting=list(lines), said=list(lines))
        if request is not None:
            self._agent_of[request] = agent

    def keep(self, agent: str, lines: Sequence[str]) -> None:
        """More lines of an agent's launch log; its build shows them as soon as it has begun."""
        log = self._logs.get(agent)
        if log is not None:
            for kept in (log.waiting, log.said):
                kept.extend(lines)
                del kept[:-_LINES_KEPT]
            self._show_soon(log)

    def said(self, agent: str) -> tuple[str, ...]:
        """The agent's launch log so far."""
        log = self._logs.get(agent)
        return tuple(log.said) if log is not None else ()

    def forget(self, agent: str) -> None:
        """The agent is gone; what is being shown is shown all the same."""
        self._logs.pop(agent, None)
        self._agent_of = {key: name for key, name in self._agent_of.items() if name != agent}

    def started(
        self, agent: str | None, build_url: str, *, request: RequestKey | None = None, before: str | None = None
    ) -> None:
        """A build has begun on an agent, or one that came for this request: show the log, in the background.

        `before` is the build's description, if it is known.
        """
        agent = agent or (self._agent_of.get(request) if request else None)
        if agent is None:
            return
        if request is None:  # one of ours, perhaps of an earlier life of the sidecar: what is said from now on is shown
            self._logs.setdefault(agent, _Log(waiting=[], said=[]))
        log = self._logs.get(agent)
        if log is not None and log.build_url is None:
            log.build_url, log.before, log.shown = build_url, before, not log.waiting
            self._show_soon(log)

    async def add(self, build_url: str, lines: Sequence[str]) -> None:
        """Put lines below what the description says already."""
        if self._allowed(build_url):
            await self._put(build_url, await self._read(build_url), lines)

    async def settle(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Show what is gathered; what takes longer than a moment is given up."""
        self._closing.set()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=_CLOSING_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _show_soon(self, log: _Log) -> None:
        if log.build_url and log.waiting and not log.writing and self._allowed(log.build_url):
            log.writing = True
            task = asyncio.create_task(self._show(log, log.build_url))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _show(self, log: _Log, build_url: str) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), _GATHER_S)
        lines, log.waiting = log.waiting, []
        later, log.shown = log.shown, True
        try:
            known = None if later else log.before
            before = await self._read(build_url) if known is None else known
            # the log of a launch that worked is not worth adding to somebody's own words; what comes later is
            if later or not before or before.startswith(PREFIX):
                await self._put(build_url, before, lines)
        except ControllerError as error:
            _log.warning("description.failed", controller=self._http.name, build=build_url, error=error.message)
        finally:
            log.writing = False
        self._show_soon(log)

    async def _read(self, build_url: str) -> str:
        answer = await self._pool.run(self._http.get, f"{build_url}api/json?tree=description", op="describe")
        return answer.get("description") or ""

    async def _put(self, build_url: str, before: str, lines: Sequence[str]) -> None:
        text = "\n".join([*([before] if before else []), *(PREFIX + line for line in lines)])
        try:
            await self._pool.run(
                self._http.call,
                "POST",
                f"{build_url}submitDescription",
                op="describe",
                form={"description": text},
                expect=(200, 302),
            )
        except ControllerError as error:
            if error.code != 403:
                raise
            self._refused.append(_job(build_url))
            _log.warning("description.refused", controller=self._http.name, build=build_url, error=error.message)

    def _allowed(self, build_url: str) -> bool:
        return _job(build_url) not in self._refused


def _job(build_url: str) -> str:
    return build_url.rstrip("/").rpartition("/")[0]
