"""One real controller for each test process; skipped with the reason where there is none."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bridge_rig import Agents, Rig


def _load_controller() -> ModuleType:
    """`jenkins-test/controller.py` is a program of its own, not a package."""
    path = Path(__file__).parents[2] / "jenkins-test" / "controller.py"
    spec = importlib.util.spec_from_file_location("jenkins_test_controller", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


controller_module = _load_controller()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.jenkins)


@pytest.fixture(scope="session")
def jenkins_tools() -> ModuleType:
    """The module itself: `freestyle_xml`, `pipeline_xml`, `job_path`, `RealController`."""
    return controller_module


@pytest.fixture(scope="session")
def real_jenkins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running `RealController`; tests share it, so each uses names of its own."""
    try:
        controller = controller_module.RealController(tmp_path_factory.mktemp("jenkins-home"))
        controller.start()
    except controller_module.NoController as error:
        pytest.skip(f"no real Jenkins here: {error}")
    try:
        yield controller
    finally:
        controller.stop()


@pytest.fixture
def agents(real_jenkins: Any, tmp_path: Path) -> Iterator[Agents]:
    started = Agents(real_jenkins, tmp_path / "agents")
    yield started
    started.end()


@pytest.fixture
async def rig(real_jenkins: Any, agents: Agents) -> AsyncIterator[Rig]:
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
