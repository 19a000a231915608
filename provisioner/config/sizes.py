"""Sizes: bytes as a whole number, or `512m`, `4g`; a unit is 1024 of the next smaller one, as Docker counts."""

from __future__ import annotations

import re

PATTERN = r"^[0-9]+(\.[0-9]+)?([kKmMgGtT]?[bB]?)$"
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmgt]?)b?", re.ASCII | re.IGNORECASE)
_UNIT_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
#: The largest number that engines take.
LARGEST_BYTES = (1 << 63) - 1


def parse_size(value: object) -> int:
    """Bytes.

    Args:
        value: a whole number of bytes, or text such as `512m`.

    Raises:
        ValueError: it is neither; the message says what would be right.
    """
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _FORM.fullmatch(value.strip())):
        number = float(match[1]) * _UNIT_BYTES[match[2].lower()]
        size = int(number) if number <= LARGEST_BYTES else LARGEST_BYTES + 1
    if size is None or size < 0:
        raise ValueError("is not a size; write bytes, or a number with k, m, g or t such as 512m, 4g")
    if size > LARGEST_BYTES:
        raise ValueError("is too large a size; the most is 2^63 - 1 bytes")
    return size
