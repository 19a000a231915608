"""What a controller writes of its connection to a node, made short (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: So much of a log is read: behind the words that matter comes the stack of what went wrong because of it.
READ_LINES = 200

_FRAME = re.compile(r"\s+at .+\(.*\)\s*|\s*\.\.\. \d+ (?:more|common frames omitted)\s*")


def last_words(log: Sequence[str], lines: int) -> tuple[str, ...]:
    """The last lines that say something: not where in a program it happened."""
    said = [line for line in log if line.strip() and not _FRAME.fullmatch(line)]
    return tuple(said[-lines:]) if lines > 0 else ()
