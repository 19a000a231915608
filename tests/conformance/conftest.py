"""The same checks over the stand-in and, where there is one, over a real controller; each has its own instance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.standin_process import Agents, Asked, StandinProcess, ask, real_controller


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("standin", marks=pytest.mark.standin),
        pytest.param("jenkins", marks=pytest.mark.jenkins),
    ],
)
def controller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """A fresh controller for each module: the checks shut it down for builds, fill its queue and count its ids."""
    if request.param == "standin":
        with StandinProcess() as standin:
            yield standin
        return
    with real_controller(tmp_path_factory.mktemp("conformance-home")) as real:
        yield real


@pytest.fixture
def agents(controller: Asked, tmp_path: Path) -> Iterator[Agents]:
    started = Agents(controller, tmp_path / "agents")
    yield started
    started.end()


@pytest.fixture
def clean(controller: Asked) -> Iterator[None]:
    """Queue and nodes are empty again after the test."""
    yield
    for item in ask(controller, "GET", "queue/api/json?tree=items[id]").json()["items"]:
        ask(controller, "POST", f"queue/cancelItem?id={item['id']}")
    for computer in ask(controller, "GET", "computer/api/json?tree=computer[displayName]").json()["computer"]:
        ask(controller, "POST", f"computer/{quote(computer['displayName'])}/doDelete")
