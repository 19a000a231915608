"""`kill -9` at a sample of the points beside a real controller: with processes, with containers of a real engine."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.faults.test_kill_for_real import killed_at

pytestmark = [pytest.mark.timeout(900)]

BACKENDS = [pytest.param("docker", marks=pytest.mark.docker), "process"]
#: In the order of a life: written and not registered, registered, half started, connected, running, half removed.
SAMPLE = (3, 7, 13, 19, 24, 28, 33, 38)
FEW = (13, 28)


def template(backend: str) -> dict[str, Any]:
    return {"image": "jenkins-provisioner-test/agent:latest", "pull": "never"} if backend == "docker" else {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at", [at if at in FEW else pytest.param(at, marks=pytest.mark.slow) for at in SAMPLE])
def test_a_freestyle_build_runs_once_and_nothing_is_left(
    real_jenkins: Any, tmp_path: Path, backend: str, at: int
) -> None:
    killed_at(real_jenkins, tmp_path, backend, at, template=template(backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at", SAMPLE)
def test_a_pipeline_runs_once_and_nothing_is_left(
    real_jenkins: Any, jenkins_tools: ModuleType, tmp_path: Path, backend: str, at: int
) -> None:
    xml = jenkins_tools.pipeline_xml("node('LABEL') { sh 'sleep 1; echo done' }")
    killed_at(real_jenkins, tmp_path, backend, at, template=template(backend), xml=xml)
