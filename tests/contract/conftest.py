from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.backend_rigs import DockerRig, ProcessRig, Rig, docker_answers, make_busybox, remove_jar_volume


@pytest.fixture(scope="session", autouse=True)
def shared_volume() -> Iterator[None]:
    """Take away what agents share on purpose, at the end of the run."""
    yield
    if docker_answers():
        remove_jar_volume()


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """Every backend in turn; nothing of it may be left behind."""
    made: Rig
    if request.param == "docker":
        if not docker_answers():
            pytest.skip("no Docker engine answers")
        make_busybox()
        made = DockerRig()
    else:
        made = ProcessRig(tmp_path)
    yield made
    await made.close()
