import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.config.durations import LONGEST_S, parse_duration
from provisioner.config.durations import PATTERN as DURATION_PATTERN
from provisioner.config.sizes import LARGEST_BYTES, parse_size
from provisioner.config.sizes import PATTERN as SIZE_PATTERN


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        ("90", 90.0),
        ("90s", 90.0),
        ("30m", 1800.0),
        ("4h", 14400.0),
        ("2d", 172800.0),
        ("0.5m", 30.0),
        (" 1s ", 1.0),
        ("3650d", LONGEST_S),
    ],
)
def test_a_duration_is_seconds_or_a_number_with_a_unit(given: object, seconds: float) -> None:
    assert parse_duration(given) == seconds


@pytest.mark.parametrize(
    "given", ["", "s", "-1s", -1, "1 s", "1h30m", "1w", "1e3", ".5s", "5.", "1S", "٣s", True, None, [], {}, math.nan]
)
def test_what_is_no_duration_is_refused_with_what_would_be_right(given: object) -> None:
    with pytest.raises(ValueError, match="not a duration; write seconds, or a number with s, m, h or d"):
        parse_duration(given)


@pytest.mark.parametrize("given", ["3651d", 10**400, math.inf, "9" * 400 + "s"])
def test_a_duration_beyond_ten_years_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="too long a duration; the most is 3650d"):
        parse_duration(given)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (0, 0),
        (1024, 1024),
        ("1024", 1024),
        ("1k", 1024),
        ("512m", 512 << 20),
        ("4g", 4 << 30),
        ("4G", 4 << 30),
        ("4gb", 4 << 30),
        ("1t", 1 << 40),
        ("1.5g", 3 << 29),
        ("7b", 7),
        (LARGEST_BYTES, LARGEST_BYTES),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(given: object, size: int) -> None:
    assert parse_size(given) == size


@pytest.mark.parametrize("given", ["", "g", "-4g", -1, "4 g", "4x", "4gib", 1.5, True, None, [], "٤g"])
def test_what_is_no_size_is_refused_with_what_would_be_right(given: object) -> None:
    with pytest.raises(ValueError, match="not a size; write bytes, or a number with k, m, g or t"):
        parse_size(given)


@pytest.mark.parametrize("given", [LARGEST_BYTES + 1, "9" * 400 + "g", "99999999t"])
def test_a_size_beyond_what_engines_take_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="too large a size"):
        parse_size(given)


@given(st.from_regex(r"\A[0-9]{1,4}(\.[0-9]{1,3})?[smhd]?\Z"))
def test_what_the_schema_calls_a_duration_is_one_or_too_long(text: str) -> None:
    assert re.search(DURATION_PATTERN, text)
    try:
        assert parse_duration(text) >= 0
    except ValueError as error:
        assert "too long" in str(error)  # noqa: PT017  (either outcome is right)


@given(st.text(alphabet="0123456789.kKmMgGtTbB x-", max_size=8))
def test_the_schema_and_the_parser_agree_on_sizes(text: str) -> None:
    if text != text.strip():
        return  # the parser forgives blanks around it
    try:
        parse_size(text)
        parsed = True
    except ValueError:
        parsed = False
    assert parsed == bool(re.fullmatch(SIZE_PATTERN, text))
