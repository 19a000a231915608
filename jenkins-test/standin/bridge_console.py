"""The launch log of one request, on its way into the build's own console."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standin.jobs import Build

PREFIX = "[provisioner] "
MOST_WAITING = 2000
MOST_CHARACTERS = 4000
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Pad:
    """Lines wait here until there is a console; a Pipeline's waiting `node` step has one from the start."""

    def __init__(self, block: Any = None) -> None:
        self.block = block  # runs.Block
        self._waiting: list[str] = []
        self._dropped = 0
        self._build: Build | None = None

    def add(self, lines: Iterable[Any]) -> None:
        for line in lines:
            for part in re.split(r"\r?\n|\r", str(line)):
                clean = _CONTROL.sub("", _TERMINAL.sub("", part))
                if len(clean) > MOST_CHARACTERS:
                    clean = clean[:MOST_CHARACTERS] + " ..."
                if len(self._waiting) >= MOST_WAITING:
                    self._dropped += 1
                else:
                    self._waiting.append(clean)
        self._flush()

    def drain(self) -> list[str]:
        lines, self._waiting = self._waiting, []
        if self._dropped:
            lines.append(f"{self._dropped} more lines are left out")
            self._dropped = 0
        return lines

    def attach(self, build: Build) -> None:
        """The build has begun: everything so far goes to the top of its console, the rest as it comes."""
        self._build = build
        self._flush()

    def _flush(self) -> None:
        if self.block is not None:
            for line in self.drain():
                self.block.run.say(PREFIX + line)
        elif self._build is not None:
            for line in self.drain():
                self._build.console.line(PREFIX + line)
