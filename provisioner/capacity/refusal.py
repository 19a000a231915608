"""A provider that has less room than its configuration says, by its own word: how many agents it takes meanwhile.

What it held when it refused is its room for a while; an agent that goes makes room for one, so that those that wait
are not all refused again. Once the pause is over one agent more tries it; each that connects makes way for the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

FIRST_PAUSE_S = 10.0
MOST_PAUSE_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """What is known since a provider refused for want of room, or by a quota.

    `seated` is the number of agents there whose instance has started; those on their way are not among them.
    """

    message: str  # the provider's
    held: int  # agents that it is known to hold
    pause_s: float
    until: datetime

    @classmethod
    def first(cls, message: str, seated: int, now: datetime) -> Refusal:
        """It refuses for the first time."""
        until = now + timedelta(seconds=FIRST_PAUSE_S)
        return cls(message=message, held=seated, pause_s=FIRST_PAUSE_S, until=until)

    def again(self, message: str, seated: int, now: datetime) -> Refusal:
        """It refuses once more. What began before it was known does not lengthen the pause."""
        if self.waits(now):
            return replace(self.holds(seated), message=message)
        pause_s = min(MOST_PAUSE_S, self.pause_s * 2)
        return replace(self, message=message, held=seated, pause_s=pause_s, until=now + timedelta(seconds=pause_s))

    def holds(self, seated: int) -> Refusal:
        """So many are there after all: a launch that was under way has worked."""
        return replace(self, held=max(self.held, seated))

    def waits(self, now: datetime) -> bool:
        """Whether it is left alone; a pause longer than was meant comes of a wall clock that was set back."""
        return now < self.until <= now + timedelta(seconds=self.pause_s)

    def over(self, now: datetime) -> bool:
        """Whether it has not refused for so long that nothing is left to be learnt from it."""
        return not self.waits(now) and now > self.until + timedelta(seconds=MOST_PAUSE_S)

    def room(self, seated: int, now: datetime) -> int:
        """Most agents there at this moment."""
        known = max(self.held, seated)
        return known if self.waits(now) else known + 1
