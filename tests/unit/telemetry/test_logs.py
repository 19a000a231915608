"""What the logs of a process say, to a machine and on a terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from provisioner.telemetry.logs import configure_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []  # else they would be closed
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def start_with(secret: str) -> None:
    raise RuntimeError(f"a fault of ours, {len(secret)} characters in")


@pytest.mark.parametrize("out", [Terminal(), io.StringIO()], ids=["terminal", "json"])
@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "a library's"])
def test_a_traceback_shows_no_values_of_variables(
    monkeypatch: pytest.MonkeyPatch, out: io.StringIO, *, foreign: bool
) -> None:
    monkeypatch.setattr("sys.stderr", out)
    configure_logs()
    log = logging.getLogger("library") if foreign else structlog.get_logger()
    try:
        start_with("".join(["hunt", "er2"]))  # the source line may be shown, the value not
    except RuntimeError:
        log.exception("agent.fault")
    told = out.getvalue()
    assert "agent.fault" in told
    assert "RuntimeError: a fault of ours, 7 characters in" in told
    assert "hunter2" not in told
