"""The long poll of the bridge: what happens at a controller, as it happens."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog

from provisioner.controller.bridge_answers import EventBatch, Hello
from provisioner.controller.bridge_client import BridgeClient
from provisioner.controller.port import Observation
from provisioner.model.errors import ControllerError

_log = structlog.get_logger(__name__)

_SAFETY_S = 30.0  # between whole snapshots although there was no gap
_POLL_S = 25  # the longest silence, below the time-outs of the usual proxies
_CUT = frozenset({0, 408, 502, 503, 504})  # how a proxy tells that it lost patience
_CUT_AFTER_S = 1.0  # what breaks sooner was no silence


class LongPoll:
    """Follows one controller.

    Args:
        bridge: who is asked.
        controller: its name.
        hello: gives the whole truth now.
        monotonic: a clock.
    """

    def __init__(
        self,
        bridge: BridgeClient,
        *,
        controller: str,
        hello: Callable[[], Awaitable[Hello]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bridge = bridge
        self._controller = controller
        self._hello = hello
        self._monotonic = monotonic
        self._poll_s = _POLL_S

    async def follow(self) -> AsyncGenerator[Observation, None]:
        """A snapshot, then events; ends when the bridge is gone, or another than we can speak with, to choose anew."""
        try:
            hello = await self._hello()
            while True:
                yield hello.snapshot
                epoch, seq, due_s = hello.epoch, hello.seq, self._monotonic() + _SAFETY_S
                while (left_s := due_s - self._monotonic()) > 0:
                    batch = await self._next(epoch, seq, left_s)
                    if batch.resync:
                        break
                    seq = batch.seq
                    for seen in batch.observations:
                        yield seen
                hello = await self._hello()
        except ControllerError as error:
            if error.code not in (404, 409):
                raise
            _log.info("bridge.gone", controller=self._controller)

    async def _next(self, epoch: str, seq: int, left_s: float) -> EventBatch:
        """What happens next. A proxy that cuts a long silence is met by shorter polls, and is no outage."""
        wait_s = max(1, min(self._poll_s, round(left_s)))
        began = self._monotonic()
        try:
            return await self._bridge.events(epoch=epoch, since=seq, wait_s=wait_s)
        except ControllerError as error:
            lasted_s = self._monotonic() - began
            if error.code not in _CUT or not _CUT_AFTER_S <= lasted_s < wait_s:
                self._poll_s = _POLL_S
                raise
            # of a controller that goes down in the middle of a poll the next one tells, and at once
            self._poll_s = max(1, int(0.8 * lasted_s))
            _log.info("bridge.poll_cut", controller=self._controller, after_s=round(lasted_s, 1), problem=error.message)
            return EventBatch(seq=seq)
