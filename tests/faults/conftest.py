"""One stand-in for the tests of real processes here, emptied after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.standin_process import StandinProcess


@pytest.fixture(scope="session")
def standin_process() -> Iterator[StandinProcess]:
    with StandinProcess("--bridge", "init") as running:
        yield running


@pytest.fixture
def standin(standin_process: StandinProcess) -> Iterator[StandinProcess]:
    yield standin_process
    standin_process.reset()
