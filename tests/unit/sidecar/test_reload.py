"""A configuration that is read again while the sidecar works: it arrives everywhere, or is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from provisioner.config import Cleanup, Settings
from provisioner.model.errors import ConfigError
from provisioner.sidecar.gateway import by_gateway
from provisioner.sidecar.reload import apply_settings
from tests.fakes.backend import FakeBackend
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House, settings

DEN = {"name": "den", "backend": "docker", "max_agents": 2}
LAB = {"name": "lab", "backend": "static", "max_agents": 3}


@pytest.fixture
async def begun() -> AsyncIterator[Callable[[Settings], House]]:
    houses: list[House] = []

    def begin(configured: Settings) -> House:
        houses.append(House(configured, FakeController(), FakeBackend()))
        houses[-1].revive()
        return houses[-1]

    yield begin
    for house in houses:
        await house.kill()


async def test_the_gateway_knows_a_provider_that_a_reload_added(
    begun: Callable[[Settings], House], tmp_path: Path
) -> None:
    house = begun(settings(tmp_path))
    way = by_gateway(house.settings)
    house.desk.dialled["ssh-gateway"] = way
    more = settings(tmp_path, more_providers=[DEN], providers=["box", "den"], transport="ssh-gateway")
    apply_settings(house.engine, more)
    assert set(way.places) == {"box", "den"}
    assert way.places["den"] == by_gateway(more).places["den"]


def with_cleanup(tmp_path: Path, *providers: object, **cleanup: Any) -> Settings:
    wanted = Cleanup.model_validate({"controller": "main", "job": "clean-node", **cleanup})
    return settings(tmp_path, more_providers=providers).model_copy(update={"cleanup": wanted})


@pytest.mark.parametrize("change", [{"labels": {"clean": "spotless"}}, {"job": "other"}, {"after": {"builds": 3}}])
async def test_static_nodes_are_kept_by_the_cleanup_with_which_they_were_made(
    begun: Callable[[Settings], House], tmp_path: Path, change: dict[str, Any]
) -> None:
    house = begun(before := with_cleanup(tmp_path, LAB))
    with pytest.raises(ConfigError, match=r"a restart is needed to change: cleanup$"):
        apply_settings(house.engine, with_cleanup(tmp_path, LAB, **change))
    assert house.desk.settings is before
    apply_settings(house.engine, (after := with_cleanup(tmp_path, LAB, interval="5s")))
    assert house.desk.settings is after


async def test_where_there_are_none_cleanup_takes_what_is_new(
    begun: Callable[[Settings], House], tmp_path: Path
) -> None:
    house = begun(with_cleanup(tmp_path))
    apply_settings(house.engine, (after := with_cleanup(tmp_path, job="other")))
    assert house.desk.settings is after
