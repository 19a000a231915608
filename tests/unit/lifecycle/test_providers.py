"""A provider that is out of reach is told and counted, from the start too."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from provisioner.model.errors import LaunchError, Reason
from provisioner.web.population import population
from tests.fakes.backend import FakeBackend
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House, settings

AWAY = LaunchError("the engine does not answer", reason=Reason.PROVIDER_UNREACHABLE, retryable=True)
REFUSED = LaunchError("the engine refuses", reason=Reason.PROVIDER_UNREACHABLE, retryable=True)


def counted(house: House) -> str:
    text = house.desk.metrics.render(population(house.engine)).decode()
    name = 'jenkins_provisioner_errors_total{reason="provider_unreachable"} '
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return line.removeprefix(name)


async def test_one_that_never_answered_is_told_and_counted_once_for_each_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr("provisioner.lifecycle.providers.log", log)
    monkeypatch.setattr("provisioner.lifecycle.providers._REOPEN_FIRST_S", 0.0)
    house = House(settings(tmp_path), FakeController(), FakeBackend(down=AWAY))
    house.revive()
    try:
        box = house.desk.providers["box"]
        await house.until(lambda: box.problem == AWAY.message)
        box.lost(AWAY.message)
        assert counted(house) == "1.0"
        house.backend.down = REFUSED
        await house.until(lambda: box.problem == REFUSED.message)
        assert counted(house) == "2.0"
        house.backend.down = None
        await house.until(lambda: box.up)
    finally:
        await house.kill()
    told = [call.kwargs["problem"] for call in log.calls if call.method_name == "warning"]
    assert told == [AWAY.message, REFUSED.message]
