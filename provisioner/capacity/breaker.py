"""When a template's launches at a provider are left alone for a while: three failures in a row, then a probe.

Closed: launches go on. Open: none begins. Half-open, once the pause is over: one launch at a time; if it
fails the pause is twice as long, if it connects all is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from provisioner.capacity.plant import Condition, ProviderState
from provisioner.model.errors import BUILDS_OWN_FAULT, Reason

FAILURES_IN_A_ROW = 3
FIRST_PAUSE_S = 120.0
MOST_PAUSE_S = 1800.0

#: Failures that say nothing about a template's luck at a provider: the build's own fault, an end that somebody
#: wished, and an outage, which the provider's own state tells better and whose end is seen at once.
NOT_COUNTED: frozenset[Reason] = BUILDS_OWN_FAULT | {
    Reason.CANCELLED,
    Reason.LIFETIME_EXCEEDED,
    Reason.PROVIDER_UNREACHABLE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """The breaker of one template at one provider."""

    failures: int = 0  # in a row
    detail: str = ""  # of the latest
    pause_s: float = 0.0  # the present or latest pause; 0: never opened since it last worked
    open_until: datetime | None = None  # None: closed

    def failed(self, detail: str, now: datetime) -> Breaker:
        """A launch failed that counts. What began before it opened and fails meanwhile does not lengthen the pause."""
        failed = replace(self, failures=self.failures + 1, detail=detail)
        if self.is_open(now):
            return failed
        if self.open_until is None and failed.failures < FAILURES_IN_A_ROW:
            return failed
        pause_s = min(MOST_PAUSE_S, self.pause_s * 2 or FIRST_PAUSE_S)
        return replace(failed, pause_s=pause_s, open_until=now + timedelta(seconds=pause_s))

    def is_open(self, now: datetime) -> bool:
        """Whether no launch may begin; a pause longer than was meant comes of a wall clock that was set back."""
        return self.open_until is not None and now < self.open_until <= now + timedelta(seconds=self.pause_s)

    def condition(self, now: datetime) -> Condition | None:
        """What placement must know; None while it is closed."""
        if self.open_until is None:
            return None
        if self.is_open(now):
            why = f"{self.failures} launches in a row failed, the last one: {self.detail}"
            return Condition(state=ProviderState.COOLING_DOWN, reason=why, until=f"{self.open_until:%H:%M:%S} UTC")
        return Condition(state=ProviderState.PROBING, reason=f"one launch tries it again after: {self.detail}")


CLOSED = Breaker()
