"""What the schema knows and this release does not do.

Accepting such a key in silence would promise what does not happen. When a feature arrives, its
row goes; nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from provisioner.config.problems import KeyPath, Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class NotYet:
    """One row: at which key (`[]` for every entry of a list), for which values, and what to do instead."""

    path: str
    when: Callable[[object], bool]
    instead: str


def _among(*words: str) -> Callable[[object], bool]:
    return lambda value: value in words


def _given(value: object) -> bool:
    """Something that is not nothing: no empty list, no mapping of nothing, no zero."""
    if isinstance(value, Mapping):
        return any(_given(inner) for inner in value.values())
    return bool(value)


def _is_set(value: object) -> bool:
    return value is not None


LEAVE_OUT = "leave it out"

ROWS: tuple[NotYet, ...] = (
    NotYet(
        path="providers[].backend",
        when=_among("swarm", "kubernetes", "libvirt"),
        instead="use docker or process",
    ),
    NotYet(path="templates[].build", when=_is_set, instead="use image"),
    NotYet(path="templates[].sidecars", when=_given, instead=LEAVE_OUT),
)


def not_yet(section: str, index: int | None, value: object, rows: tuple[NotYet, ...] = ROWS) -> Iterator[Problem]:
    """What one part uses that does not work yet.

    Args:
        section: the top-level key that holds the part.
        index: its place in the list there; None where there is no list.
        value: the part as plain values.
        rows: the table.
    """
    head = section if index is None else f"{section}[]"
    at: KeyPath = (section,) if index is None else (section, index)
    for row in rows:
        if row.path == head or row.path.startswith(f"{head}."):
            for path, found in _found(value, row.path[len(head) :], at):
                if row.when(found):
                    yield Problem(path=path, text=f"{_shown(found)}is not yet supported; {row.instead}")


def _found(value: object, rest: str, at: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    if not rest:
        yield at, value
    elif rest.startswith("[]"):
        for index, inner in enumerate(value) if isinstance(value, list | tuple) else ():
            yield from _found(inner, rest[2:], (*at, index))
    elif isinstance(value, Mapping):
        key = rest[1:].partition(".")[0].partition("[")[0]
        yield from _found(value.get(key), rest[1 + len(key) :], (*at, key))


def _shown(value: object) -> str:
    if isinstance(value, int) and value > 1_000_000:
        return ""  # a size, which the file does not have in bytes
    return f"{json.dumps(value, ensure_ascii=False)} " if isinstance(value, str | int | float) else ""
