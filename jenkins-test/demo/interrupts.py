"""Ctrl-C, SIGTERM and a closed terminal: noted at once, acted on where nothing is half done."""

from __future__ import annotations

import os
import select
import signal
import time
from types import FrameType


class DemoError(Exception):
    """The demo cannot go on; the message is for a person."""


class Interrupted(Exception):  # noqa: N818  (nothing went wrong)
    """Somebody asked the demo to end."""


class Interrupts:
    """A handler that only notes the signal: nothing is ever cut between a child's start and its being written down."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        #: set while everything is being ended: a second Ctrl-C must not leave things behind
        self.held = False
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)

    def check(self) -> None:
        """Raises Interrupted if a signal came."""
        if self.signal is not None and not self.held:
            raise Interrupted(self.signal.name)

    def pause(self, seconds: float) -> None:
        """Wait, at most until a signal comes; then raises Interrupted."""
        self.check()
        if self.held:
            time.sleep(seconds)
            return
        ready, _, _ = select.select([self._woken], [], [], seconds)
        if ready:
            os.read(self._woken, 4096)
        self.check()
