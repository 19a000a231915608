"""What the demo prints: lines, tables, and on a terminal one line that lives."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import TextIO

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPIN_S = 0.1
_LEAST_FIRST_COLUMN = 12


class Style(StrEnum):
    """How a text looks, as the number that terminals know it by."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    GOOD = "32"
    BAD = "1;31"
    ODD = "33"
    OURS = "36"


Cell = tuple[str, Style]


class Screen:
    """Lines to a stream. Colours and the live line need a terminal; NO_COLOR takes the colours away."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        terminal = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self._stream = stream
        self._live = terminal
        self._coloured = terminal and not os.environ.get("NO_COLOR")
        self._plain_signs = "utf" not in (stream.encoding or "").lower()
        self._shown = False
        self._began = time.monotonic()
        #: nobody reads any more (`| head`, a closed terminal)
        self.broken = False
        if self._plain_signs:
            stream.reconfigure(errors="replace")  # type: ignore[attr-defined]

    @property
    def age_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    @property
    def good(self) -> str:
        """A tick."""
        return "ok" if self._plain_signs else "✓"

    @property
    def bad(self) -> str:
        """A cross."""
        return "!!" if self._plain_signs else "✗"

    def paint(self, text: str, style: Style) -> str:
        """The text in that style, where there are colours."""
        return f"\x1b[{style.value}m{text}\x1b[0m" if style and text and self._coloured else text

    def line(self, text: str = "", style: Style = Style.PLAIN) -> None:
        """One line, above the live one."""
        self._write(("\r\x1b[K" if self._shown else "") + self.paint(text, style) + "\n")
        self._shown = False

    def event(self, text: str, style: Style = Style.PLAIN) -> None:
        """A line with the time at which it happened."""
        self.line(f"{self.paint(f'{self.age_s:6.1f} s', Style.DIM)}  {self.paint(text, style)}")

    def heading(self, text: str, style: Style = Style.BOLD) -> None:
        """A line that opens a part."""
        rule = "--" if self._plain_signs else "──"
        self.line()
        self.line(f"{rule} {text} " + rule[0] * max(2, min(100, self._columns()) - len(text) - 5), style)

    def live(self, text: str) -> None:
        """Put this into the live line; nothing on a pipe."""
        if not self._live:
            return
        sign = "*" if self._plain_signs else _SPINNER[int(self.age_s / _SPIN_S) % len(_SPINNER)]
        told = f"{self.age_s:6.1f} s  {text}"[: max(10, self._columns() - 3)]
        self._write(f"\r{self.paint(sign, Style.OURS)}{told}\x1b[K")
        self._shown = True

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: int | None = None) -> None:
        """Columns, from the `right`-th on flush right; a narrow terminal cuts the first."""
        texts = [list(head), *([cell[0] for cell in row] for row in rows)]
        widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
        over = 2 + sum(widths) + 2 * (len(widths) - 1) - self._columns()
        if self._live and over > 0:
            widths[0] = max(_LEAST_FIRST_COLUMN, widths[0] - over)
        for number, row in enumerate([[(text, Style.BOLD) for text in head], *rows]):
            cells = []
            for i, (text, style) in enumerate(row):
                cut = text if len(text) <= widths[i] else text[: widths[i] - 1] + ("~" if self._plain_signs else "…")
                gap = " " * (widths[i] - len(cut))
                flush_right = right is not None and i >= right
                last = i == len(row) - 1 and not flush_right
                cells.append(
                    (gap if flush_right else "") + self.paint(cut, style) + ("" if flush_right or last else gap)
                )
            self.line(("  " + "  ".join(cells)).rstrip())
            if number == 0:
                rule = "-" if self._plain_signs else "─"
                self.line("  " + "  ".join(rule * width for width in widths), Style.DIM)

    def close(self) -> None:
        """Take the live line away."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _columns(self) -> int:
        return shutil.get_terminal_size((100, 24)).columns

    def _write(self, text: str) -> None:
        if self.broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self.broken = True
            # what is buffered would be tried again at exit, and complained about
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
