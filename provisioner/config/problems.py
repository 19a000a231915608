"""One thing that is wrong with the configuration, and where."""

from __future__ import annotations

from dataclasses import dataclass

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong and what would be right, at one key."""

    path: KeyPath
    text: str
    line: int | None = None  # where the path alone does not tell it


def written(path: KeyPath) -> str:
    """`templates[0].image` and so on."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def related(one: KeyPath, other: KeyPath) -> bool:
    """Whether one holds the other, or both are the same."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
