"""Durations: seconds as a number, or `90s`, `30m`, `4h`, `2d`."""

from __future__ import annotations

import math
import re

PATTERN = r"^[0-9]+(\.[0-9]+)?[smhd]?$"
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", re.ASCII)
_UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Beyond this, timers overflow on some platforms, and a slip of the pen is likelier than a wish.
LONGEST_S = 3650 * 86400.0


def parse_duration(value: object) -> float:
    """Seconds.

    Args:
        value: a number of seconds, or text such as `90s`.

    Raises:
        ValueError: it is neither; the message says what would be right.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        # compared before it is converted: a whole number may be larger than any float
        seconds = float(value) if 0 <= value <= LONGEST_S else math.inf if value > 0 else math.nan
    elif isinstance(value, str) and (match := _FORM.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNIT_S[match[2]]
    if math.isnan(seconds):
        raise ValueError("is not a duration; write seconds, or a number with s, m, h or d such as 90s, 30m, 4h, 2d")
    if seconds > LONGEST_S:
        raise ValueError("is too long a duration; the most is 3650d")
    return seconds
