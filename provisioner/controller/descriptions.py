"""The launch log in the description of builds: the one place of a build that REST lets us write to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from provisioner.controller.rest import Rest
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError
from provisioner.model.queue import RequestKey

_log = structlog.get_logger(__name__)

PREFIX = "[provisioner] "
_LINES_KEPT = 200  # of one agent, until its build shows them


class Descriptions:
    """Keeps launch logs until their builds have begun, then shows them there, once for each agent.

    It needs the permission Run/Update. Without it nothing is shown, and that is said once.
    """

    def __init__(self, http: Rest, pool: DaemonPool) -> None:
        self._http = http
        self._pool = pool
        self._lines: dict[str, list[str]] = {}  # by agent
        self._said: dict[str, list[str]] = {}  # the same, also after its build shows them
        self._agent_of: dict[RequestKey, str] = {}
        self._allowed = True
        self._tasks: set[asyncio.Task[None]] = set()

    def expect(self, agent: str, request: RequestKey | None, lines: Sequence[str]) -> None:
        """An agent is on its way to a request; saying so again, after a registration that failed, changes nothing."""
        if agent not in self._lines:
            self._lines[agent] = list(lines)
            self._said[agent] = list(lines)
        if request is not None:
            self._agent_of[request] = agent

    def keep(self, agent: str, lines: Sequence[str]) -> None:
        """More lines of an agent's launch log; dropped if its build shows the log already."""
        for kept in (self._lines.get(agent), self._said.get(agent)):
            if kept is not None:
                kept.extend(lines)
                del kept[:-_LINES_KEPT]

    def said(self, agent: str) -> tuple[str, ...]:
        """The agent's launch log so far."""
        return tuple(self._said.get(agent, ()))

    def forget(self, agent: str) -> None:
        """The agent is gone."""
        self._lines.pop(agent, None)
        self._said.pop(agent, None)
        self._agent_of = {key: name for key, name in self._agent_of.items() if name != agent}

    def started(
        self, agent: str | None, build_url: str, *, request: RequestKey | None = None, before: str | None = None
    ) -> None:
        """A build has begun on an agent, or one that came for this request: show the log, in the background.

        `before` is the build's description, if it is known.
        """
        agent = agent or (self._agent_of.get(request) if request else None)
        lines = self._lines.pop(agent, None) if agent else None
        if lines and self._allowed:
            task = asyncio.create_task(self._show(build_url, before, lines))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def add(self, build_url: str, lines: Sequence[str]) -> None:
        """Put lines below what the description says already."""
        if self._allowed:
            await self._put(build_url, await self._read(build_url), lines)

    async def settle(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _show(self, build_url: str, before: str | None, lines: Sequence[str]) -> None:
        try:
            before = await self._read(build_url) if before is None else before
            if before and not before.startswith(PREFIX):
                return  # somebody's own words; the log of a launch that worked is not worth adding to them
            await self._put(build_url, before, lines)
        except ControllerError as error:
            _log.warning("description.failed", controller=self._http.name, build=build_url, error=error.message)

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
            self._allowed = False
            _log.warning("description.refused", controller=self._http.name, error=error.message)
