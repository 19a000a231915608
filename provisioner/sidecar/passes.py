"""Passes of a blocking scheduler as a loop of the sidecar, in a thread of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import structlog

from provisioner.config import Settings
from provisioner.controller.threads import DaemonPool
from provisioner.lifecycle.desk import Desk
from provisioner.model.errors import ProvisionerError

log = structlog.get_logger()

#: A sleep is cut into slices of this length, each a sign of life and a look at a reloaded configuration.
_SLICE_S = 5.0


class PassLoop(ABC):
    """One pass at each interval, for as long as the configuration asks for it."""

    #: in health, events and the thread's name
    name: str

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pool = DaemonPool(1, self.name)

    @abstractmethod
    def _interval_s(self, settings: Settings) -> float | None:
        """Time between two passes; None: there are none."""

    @abstractmethod
    def _one_pass(self, settings: Settings) -> None:
        """One pass, in a thread; calls `_alive` now and then."""

    async def run(self) -> None:
        """Work until cancelled; a pass that is under way then ends in its own time, each of its acts whole."""
        try:
            while True:
                started_s = self._desk.clock.monotonic()
                if self._interval_s(self._desk.settings) is not None:
                    await self._pass()
                else:
                    self._desk.ticks.pop(self.name, None)
                while True:
                    interval_s = self._interval_s(self._desk.settings)
                    due_s = _SLICE_S if interval_s is None else interval_s
                    left_s = started_s + due_s - self._desk.clock.monotonic()
                    if left_s <= 0:
                        break
                    if interval_s is not None:
                        self._alive()
                    await self._desk.clock.sleep(min(left_s, _SLICE_S))
        finally:
            self._pool.shutdown()

    async def _pass(self) -> None:
        try:
            await self._pool.run(self._one_pass, self._desk.settings)
        except ProvisionerError as error:
            event = f"{self.name}.failed"
            log.warning(event, problem=error.message, next="the next pass tries again")
        except Exception:
            # a fault of ours in here must not end the agents' loops
            event = f"{self.name}.fault"
            log.exception(event, next="the next pass tries again")

    def _alive(self) -> None:
        self._desk.tick(self.name)
