"""One stand-in for the tests of a process, emptied after each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssh_machine import SshMachine
from tests.standin.loan_estate import Estate
from tests.standin_process import Agents, StandinProcess


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


@pytest.fixture
def agents(standin: StandinProcess, tmp_path: Path) -> Iterator[Agents]:
    started = Agents(standin, tmp_path / "agents")
    yield started
    started.end()


@pytest.fixture(scope="module")
def other() -> Iterator[StandinProcess]:
    """A second controller, for loans."""
    with StandinProcess("--bridge", "init") as running:
        yield running


@pytest.fixture
def borrower(other: StandinProcess) -> Iterator[StandinProcess]:
    yield other
    other.reset()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshMachine]:
    with SshMachine(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture
def estate(standin: StandinProcess, borrower: StandinProcess, machine: SshMachine, tmp_path: Path) -> Iterator[Estate]:
    made = Estate(standin, borrower, machine, tmp_path)
    yield made
    made.end()
