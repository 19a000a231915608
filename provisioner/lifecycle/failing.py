"""A launch that failed: tried again, or told to the build as its own failure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from provisioner.controller.port import FailOutcome
from provisioner.lifecycle.ending import error_lines
from provisioner.model.agent import Agent
from provisioner.model.errors import ControllerError, ProvisionerError, Reason
from provisioner.model.request import Request, RequestState

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import Desk

log = structlog.get_logger()

_RETRY_FIRST_S = 1.0
_RETRY_MOST_S = 30.0
#: How long a request that was spared waits before it is looked at again.
_SPARED_S = 60.0


class Failing:
    """What follows on failed launches."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._ending: set[object] = set()
        self.on_standby_failed: Callable[[Agent], None] = lambda _agent: None

    def launch_failed(self, agent: Agent, error: ProvisionerError) -> None:
        """An agent failed before its build began; its teardown goes on by itself.

        Within the transaction that writes it down. What cannot be taken back follows when that is on disk.
        """
        desk = self._desk
        desk.breakers.failed(agent, error)
        if task := desk.agents.get(agent.name):
            task.log.note(*error_lines(error))
        if (before := desk.book.get(agent.request)) is not None:
            desk.store.if_undone(partial(desk.book.put_back, before))
        full = desk.refusals.tells(agent, error)
        request = desk.book.agent_failed(agent, error, pause=not full)
        desk.store.once_written(partial(self._follow_up, agent, error, request))

    def _follow_up(self, agent: Agent, error: ProvisionerError, request: Request | None) -> None:
        self._desk.metrics.launch(agent.controller, agent.template, error.reason)
        self._desk.metrics.error(error.reason)
        self._desk.refusals.refused(agent, error)
        log.warning("launch.failed", agent=agent.name, reason=error.reason.value, problem=error.message)
        task = self._desk.agents.get(agent.name)
        lines = task.log.take() if task else []
        told = error_lines(error)
        if agent.request is None:
            self.on_standby_failed(agent)
        self._desk.plan_again.set()
        if request is None:
            return
        if request.state is RequestState.FAILING:
            self.end(request, [*lines, *told])
            return
        if self._desk.refusals.tells(agent, error):
            again = "This is no fault of the build; it waits for room"
        elif request.not_before is None:
            again = "Trying again with a new agent"
        else:
            pause_s = (request.not_before - self._desk.clock.now()).total_seconds()
            again = f"This is no fault of the build; trying again in {max(1.0, pause_s):.0f} s"
        self._desk.errand(self._tell(request, [*lines, *told, again]), name=f"tell {request.item.key}")

    def take_up(self) -> None:
        """End what an earlier process did not get to end, and what was refused without a launch."""
        for request in self._desk.book.failing():
            if request.item.key not in self._ending:
                error = ProvisionerError(
                    request.detail, reason=request.reason or Reason.INTERNAL_ERROR, tail=request.tail
                )
                self.end(request, error_lines(error))

    def end(self, request: Request, lines: list[str]) -> None:
        """End a request with the reason in its console, as often as it takes. Idempotent."""
        if request.item.key not in self._ending:
            self._ending.add(request.item.key)
            self._desk.errand(self._end(request, lines), name=f"end {request.item.key}")

    async def _end(self, request: Request, lines: list[str]) -> None:
        controller = self._desk.controllers[request.item.key.controller]
        reason = (request.reason or Reason.INTERNAL_ERROR).value
        pause_s = _RETRY_FIRST_S
        try:
            while self._desk.book.get(request.item.key) is not None:
                try:
                    outcome = await controller.port.fail(request.item, reason, request.detail, lines)
                except ControllerError as error:
                    log.warning("request.not_ended", request=str(request.item.key), problem=error.message)
                    await self._desk.clock.sleep(pause_s)
                    pause_s = min(_RETRY_MOST_S, pause_s * 2)
                    continue
                log.info(
                    "request.ended",
                    request=str(request.item.key),
                    outcome=outcome.value,
                    reason=reason,
                    problem=request.detail,
                )
                if outcome is FailOutcome.SPARED and self._desk.book.get(request.item.key) is not None:
                    self._desk.book.spared(request, _SPARED_S)
                else:
                    if outcome is not FailOutcome.GONE:
                        self._desk.ended.append(request)
                    self._desk.book.gone(request.item.key)
                return
        finally:
            self._ending.discard(request.item.key)

    async def _tell(self, request: Request, lines: list[str]) -> None:
        controller = self._desk.controllers[request.item.key.controller]
        try:
            await controller.port.tell(None, request.item, lines)
        except ControllerError as error:
            log.info("log.untold", request=str(request.item.key), problem=error.message)
