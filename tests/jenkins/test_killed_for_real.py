"""`kill -9` at a sample of the points beside a real controller: with processes, with containers of a real engine.

Every pair of a backend of `PROVIDERS` and a transport is tried as soon as the configuration accepts it.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from controller import RealController, pipeline_xml

from provisioner.config import examine_bytes
from provisioner.config.kinds import TransportKind
from tests.faults.killing import PROVIDERS, config, killed_at

pytestmark = [pytest.mark.timeout(900)]

#: In the order of a life: written and not registered, registered, half started, connected, running, half removed.
SAMPLE = (3, 7, 13, 19, 24, 28, 33, 38)
FEW = (7, 13, 19, 28)  # for each other transport
AT_ONCE = {
    ("process", "websocket", 28),
    ("process", "ssh", 13),
    ("docker", "ssh-gateway", 13),
}


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
    (backend, transport.value)
    for backend in PROVIDERS
    for transport in TransportKind
    if accepted(backend, transport.value)
]


def cases(few: tuple[int, ...], at_once: Container[tuple[str, str, int]]) -> list[Any]:
    """Every way at its points; most of them only when slow tests are asked for."""
    found = []
    for backend, transport in WAYS:
        for at in SAMPLE if transport == TransportKind.WEBSOCKET else few:
            marks = [pytest.mark.docker] if backend == "docker" else []
            if (backend, transport, at) not in at_once:
                marks.append(pytest.mark.slow)
            found.append(pytest.param(backend, transport, at, marks=marks))
    return found


def test_each_backend_here_can_be_killed_with_the_usual_transport() -> None:
    assert set(WAYS) >= {(backend, "websocket") for backend in PROVIDERS}


@pytest.mark.parametrize(("backend", "transport", "at"), cases(FEW, AT_ONCE))
def test_a_freestyle_build_runs_once_and_nothing_is_left(
    real_jenkins: RealController, tmp_path: Path, backend: str, transport: str, at: int
) -> None:
    killed_at(real_jenkins, tmp_path, backend, at, template=template(backend, transport))


@pytest.mark.parametrize(("backend", "transport", "at"), cases((13, 28), ()))
def test_a_pipeline_runs_once_and_nothing_is_left(
    real_jenkins: RealController, tmp_path: Path, backend: str, transport: str, at: int
) -> None:
    xml = pipeline_xml("node('LABEL') { sh 'sleep 1; echo done' }")
    killed_at(real_jenkins, tmp_path, backend, at, template=template(backend, transport), xml=xml)
