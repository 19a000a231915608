"""The dirty/clean scheduler as a loop of the sidecar, in a thread of its own."""

from __future__ import annotations

import structlog

from provisioner.cleanup.scheduler import Row, Scheduler, make_scheduler
from provisioner.config import Settings
from provisioner.controller.threads import DaemonPool
from provisioner.lifecycle.desk import Desk
from provisioner.model.errors import ProvisionerError

log = structlog.get_logger()

#: A sleep is cut into slices of this length, each a sign of life and a look at a reloaded configuration.
_SLICE_S = 5.0


class CleanupLoop:
    """One pass at each interval, for as long as the configuration has a `cleanup`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pool = DaemonPool(1, "cleanup")
        self._settings: Settings | None = None
        self._scheduler: Scheduler | None = None

    async def run(self) -> None:
        """Work until cancelled; a pass that is under way then ends in its own time, each of its acts whole."""
        try:
            while True:
                started_s = self._desk.clock.monotonic()
                cleanup = self._desk.settings.cleanup
                if cleanup is not None:
                    await self._pass()
                else:
                    self._desk.ticks.pop("cleanup", None)
                while True:
                    cleanup = self._desk.settings.cleanup
                    due_s = cleanup.interval_s if cleanup is not None else _SLICE_S
                    left_s = started_s + due_s - self._desk.clock.monotonic()
                    if left_s <= 0:
                        break
                    if cleanup is not None:
                        self._desk.tick("cleanup")
                    await self._desk.clock.sleep(min(left_s, _SLICE_S))
        finally:
            self._pool.shutdown()

    async def _pass(self) -> None:
        try:
            await self._pool.run(self._ready().one_pass, self._alive)
        except ProvisionerError as error:
            log.warning("cleanup.failed", problem=error.message, next="the next pass tries again")
        except Exception:
            # a fault of ours in here must not end the agents' loops
            log.exception("cleanup.fault", next="the next pass tries again")

    def _ready(self) -> Scheduler:
        if self._scheduler is None or self._settings is not self._desk.settings:
            self._settings = self._desk.settings
            self._scheduler = make_scheduler(self._settings)
            log.info("cleanup.started", controller=self._settings.cleanup and self._settings.cleanup.controller)
        return self._scheduler

    def _alive(self, _row: Row) -> None:
        self._desk.tick("cleanup")
