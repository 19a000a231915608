"""One stand-in for the tests of a process, emptied after each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standin_process import AgentProcess, StandinProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.standin)


@pytest.fixture(scope="session")
def standin_process() -> Iterator[StandinProcess]:
    with StandinProcess("--bridge", "init") as running:
        yield running


@pytest.fixture
def standin(standin_process: StandinProcess) -> Iterator[StandinProcess]:
    """Fresh for each test: no job, no node, no item, no fault."""
    yield standin_process
    standin_process.reset()


class Agents:
    """Agents of one test, ended with it."""

    def __init__(self, standin: StandinProcess, folder: Path) -> None:
        self.standin = standin
        self.folder = folder
        self.started: list[AgentProcess] = []

    def start(self, name: str, *extra: str, secret: str | None = None) -> AgentProcess:
        agent = AgentProcess(self.standin, name, self.folder, *extra, secret=secret)
        self.started.append(agent)
        return agent

    def end(self) -> None:
        for agent in self.started:
            agent.end()


@pytest.fixture
def agents(standin: StandinProcess, tmp_path: Path) -> Iterator[Agents]:
    started = Agents(standin, tmp_path / "agents")
    yield started
    started.end()
