"""Loans as a loop of the sidecar: leases, absent borrowers, what was cut off by a crash."""

from __future__ import annotations

import structlog

from provisioner.config import Settings
from provisioner.lifecycle.desk import Desk
from provisioner.loans.book import LoanBook
from provisioner.sidecar.passes import PassLoop

log = structlog.get_logger()


class LoanLoop(PassLoop):
    """One pass at each interval, for as long as there are two controllers to lend between."""

    name = "loans"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._settings: Settings | None = None
        self._book: LoanBook | None = None

    def _interval_s(self, settings: Settings) -> float | None:
        return settings.loans.interval_s if len(settings.controllers) > 1 else None

    def _one_pass(self, settings: Settings) -> None:
        self._ready(settings).settle(tell=lambda _row: self._alive())

    def _ready(self, settings: Settings) -> LoanBook:
        if self._book is None or self._settings is not settings:
            if self._book is not None:
                self._book.close()
            self._settings = settings
            self._book = LoanBook(settings)
            log.info("loans.started", controllers=[c.name for c in settings.controllers])
        return self._book
