"""`kill -9` at a sample of the points beside a real controller: with processes, with containers of a real engine.

Every pair of a backend of `PROVIDERS` and a transport is tried as soon as the configuration accepts it.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from provisioner.config import examine_bytes
from provisioner.config.kinds import TransportKind
from tests.faults.test_kill_for_real import PROVIDERS, config, killed_at

pytestmark = [pytest.mark.timeout(900)]

#: In the order of a life: written and not registered, registered, half started, connected, running, half removed.
SAMPLE = (3, 7, 13, 19, 24, 28, 33, 38)
FEW = (13, 28)


def template(backend: str, transport: str) -> dict[str, Any]:
    image = {"image": "jenkins-provisioner-test/agent:latest", "pull": "never"} if backend == "docker" else {}
    return image if transport == TransportKind.WEBSOCKET else {**image, "transport": transport}


def accepted(backend: str, transport: str) -> bool:
    """Whether the product says that it can."""
    nobody = SimpleNamespace(url="http://127.0.0.1:1/", user="u", token="t", java="java")
    told = config(nobody, backend, "probe", template=template(backend, transport))
    text = yaml.safe_dump({**told, "state": "/tmp/state.db"})
    return not examine_bytes(text.encode(), "probe").findings


WAYS = [
    pytest.param(backend, transport.value, marks=[pytest.mark.docker] if backend == "docker" else [])
    for backend in PROVIDERS
    for transport in TransportKind
    if accepted(backend, transport.value)
]


def test_each_backend_here_can_be_killed_with_the_usual_transport() -> None:
    assert {(way.values[0], way.values[1]) for way in WAYS} >= {(backend, "websocket") for backend in PROVIDERS}


@pytest.mark.parametrize(("backend", "transport"), WAYS)
@pytest.mark.parametrize("at", [at if at in FEW else pytest.param(at, marks=pytest.mark.slow) for at in SAMPLE])
def test_a_freestyle_build_runs_once_and_nothing_is_left(
    real_jenkins: Any, tmp_path: Path, backend: str, transport: str, at: int
) -> None:
    killed_at(real_jenkins, tmp_path, backend, at, template=template(backend, transport))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "transport"), WAYS)
@pytest.mark.parametrize("at", SAMPLE)
def test_a_pipeline_runs_once_and_nothing_is_left(
    real_jenkins: Any, jenkins_tools: ModuleType, tmp_path: Path, backend: str, transport: str, at: int
) -> None:
    xml = jenkins_tools.pipeline_xml("node('LABEL') { sh 'sleep 1; echo done' }")
    killed_at(real_jenkins, tmp_path, backend, at, template=template(backend, transport), xml=xml)
