"""Tables for a terminal: aligned columns, one line for each row."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence


def plain(value: object) -> str:
    """One line without control characters: names of jobs come from strangers, and a terminal obeys them."""
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value)) or "-"
    return "".join(c if c.isprintable() else "?" for c in str(value)) or "-"


def age(seconds: object) -> str:
    """`42s`, `3m20s`, `5h02m`, `3d04h`."""
    whole = int(seconds) if isinstance(seconds, int | float) else 0
    if whole < 100:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def print_json(data: Mapping[str, object]) -> None:
    """As the API gave it."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, nothing: str) -> None:
    """Print rows under their heads, or one line that there are none.

    On a terminal the last column is cut to its width; elsewhere nothing is cut.
    """
    if not rows:
        print(nothing)
        return
    cells = [tuple(heads), *(tuple(plain(value) for value in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads) - 1)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row in cells:
        line = "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        print(f"{line[: room - 1]}…" if room and len(line) > room else line)


def rows_of(body: Mapping[str, object], key: str) -> list[dict[str, object]]:
    """The list in an answer."""
    found = body.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
