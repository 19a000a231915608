from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backend_rigs import DockerRig, ProcessRig, Rig, docker_answers, make_busybox


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
