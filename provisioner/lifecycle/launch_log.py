"""The launch log of one agent: kept in the records, and handed on to the build's console."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from provisioner.lifecycle.clock import Clock
from provisioner.records.store import Store

#: A launch that talks more than this is cut; the instance's own log has the rest.
MOST_LINES = 2000
_MOST_CHARACTERS = 2000


class LaunchLog:
    """Lines in the order they were said. `take` gives those the controller has not been told yet."""

    def __init__(self, agent: str, store: Store, clock: Clock) -> None:
        self._agent = agent
        self._store = store
        self._clock = clock
        known = store.lines(agent)
        self._next = known[-1][0] + 1 if known else 0
        self._untold: list[str] = []
        self.grew = asyncio.Event()

    def say(self, *lines: str) -> None:
        """Add lines; each is bounded in length, and so is their number."""
        self._untold.extend(self._add(lines))

    def note(self, *lines: str) -> None:
        """Add lines that the build's console has, or gets, in another way."""
        self._add(lines)

    def _add(self, lines: Sequence[str]) -> list[str]:
        fresh = [part[:_MOST_CHARACTERS] for line in lines for part in line.splitlines() or [""]]
        room = MOST_LINES - self._next
        if room <= 0 or not fresh:
            return []
        if len(fresh) >= room:
            fresh = [*fresh[: room - 1], "… the launch log is full; the rest is left out"]
        self._store.add_lines(self._agent, self._next, fresh, self._clock.now())
        self._next += len(fresh)
        self.wake()
        return fresh

    def wake(self) -> None:
        """Let those who follow the log look again: it grew, or nothing more will come."""
        # whoever waits holds this very event; the next ones wait for a new one
        grew, self.grew = self.grew, asyncio.Event()
        grew.set()

    def take(self) -> list[str]:
        """The lines not told yet; they count as told now."""
        lines, self._untold = self._untold, []
        return lines

    def give_back(self, lines: Sequence[str]) -> None:
        """Lines that could not be told after all."""
        self._untold[:0] = lines
