"""One real controller for each test process; skipped with the reason where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from controller import RealController

from tests.jenkins.bridge_rig import Agents, Rig
from tests.jenkins.docker_plant import JAVA, DockerPlant, engine_with, make_without_java
from tests.standin_process import real_controller


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.jenkins)


@pytest.fixture(scope="session")
def real_jenkins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealController]:
    """A running `RealController`; tests share it, so each uses names of its own."""
    with real_controller(tmp_path_factory.mktemp("jenkins-home")) as controller:
        yield controller


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    """This machine's, with the image of most agents; a module that needs others has a fixture of its own."""
    client = engine_with(JAVA)
    yield client
    client.close()


@pytest.fixture(scope="module")
def without_java(engine: docker.DockerClient) -> Iterator[str]:
    """The name of an image."""
    name = make_without_java(engine)
    yield name
    engine.images.remove(name, force=True)


@pytest.fixture
def plant(real_jenkins: RealController, engine: docker.DockerClient, tmp_path: Path) -> Iterator[DockerPlant]:
    """One for agents that are containers; modules with another kind of agents have a fixture of their own."""
    made = DockerPlant(real_jenkins, engine, tmp_path)
    yield made
    made.close()


@pytest.fixture
def agents(real_jenkins: RealController, tmp_path: Path) -> Iterator[Agents]:
    started = Agents(real_jenkins, tmp_path / "agents")
    yield started
    started.end()


@pytest.fixture
async def rig(real_jenkins: RealController, agents: Agents) -> AsyncIterator[Rig]:
    """The bridge, put in through the script console, and a client with a running long poll."""
    rig = Rig(real_jenkins, agents)
    try:
        await rig.open()
        yield rig
    finally:
        for name in real_jenkins.nodes():
            real_jenkins.request("POST", f"computer/{name}/doDelete")
        for item in real_jenkins.queue_items():
            real_jenkins.cancel(item["id"])
        await rig.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed test shows the end of the controller's log, its queue and its nodes."""
    report = yield
    controller = getattr(item, "funcargs", {}).get("real_jenkins")
    if report.when == "call" and report.failed and controller is not None:
        try:
            state = f"queue: {controller.queue_items()}\nnodes: {controller.nodes()}"
        except (OSError, AssertionError) as error:
            state = f"the controller does not answer: {error}"
        report.sections.append(("controller", f"{state}\n{controller.log_tail(80)}"))
    return report
