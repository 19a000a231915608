"""The dirty/clean scheduler as a loop of the sidecar."""

from __future__ import annotations

import structlog

from provisioner.cleanup.assembly import make_scheduler
from provisioner.cleanup.scheduler import Scheduler
from provisioner.config import Settings
from provisioner.lifecycle.desk import Desk
from provisioner.sidecar.passes import PassLoop

log = structlog.get_logger()


class CleanupLoop(PassLoop):
    """One pass at each interval, for as long as the configuration has a `cleanup`."""

    name = "cleanup"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._settings: Settings | None = None
        self._scheduler: Scheduler | None = None

    def _interval_s(self, settings: Settings) -> float | None:
        return settings.cleanup.interval_s if settings.cleanup is not None else None

    def _one_pass(self, settings: Settings) -> None:
        self._ready(settings).one_pass(lambda _row: self._alive())

    def _ready(self, settings: Settings) -> Scheduler:
        if self._scheduler is None or self._settings is not settings:
            self._settings = settings
            self._scheduler = make_scheduler(settings)
            log.info("cleanup.started", controller=settings.cleanup and settings.cleanup.controller)
        return self._scheduler
