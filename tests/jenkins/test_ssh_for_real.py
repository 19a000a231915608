"""Agents that a real controller dials: its own plugin, a credentials entry for each, pinned host keys."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controller import RealController

from tests.jenkins.plant import Plant, all_succeeded, provisioner_lines


class SshPlant(Plant):
    """The template `one` is dialled."""

    def configuration(self, **how: Any) -> dict[str, Any]:
        configured = super().configuration(**how)
        configured["templates"][0]["transport"] = "ssh"
        return configured

    def ours(self) -> dict[str, Any]:
        path = "credentials/store/system/domain/_/api/json?tree=credentials[id]"
        entries = [e["id"] for e in self.jenkins.get_json(path)["credentials"]]
        return {**super().ours(), "entries": [e for e in entries if f".{self.owner}." in e]}


@pytest.fixture
def plant(real_jenkins: RealController, tmp_path: Path) -> Iterator[SshPlant]:
    made = SshPlant(real_jenkins, tmp_path, f"ssh{random.randrange(16**6):06x}")
    yield made
    made.end()


@pytest.mark.parametrize("bridge", ["script", "off"])
def test_builds_run_on_agents_that_the_controller_dials(plant: SshPlant, bridge: str) -> None:
    plant.start(bridge=bridge)
    freestyle = plant.freestyle("f", "echo built on $NODE_NAME; head -c 3000000 /dev/urandom | wc -c")
    pipeline = plant.pipeline("p", f"node('{plant.owner}') {{ sh 'echo on $NODE_NAME' }}")
    for job in (freestyle, pipeline):
        plant.jenkins.queue_build(job)
    builds = {job: plant.jenkins.wait_build(job) for job in (freestyle, pipeline)}
    all_succeeded(plant, builds)
    plant.nothing_left()
    if bridge == "script":
        told = provisioner_lines(plant.jenkins.console(freestyle))
        assert any("The controller dials 127.0.0.1 port " in line for line in told), told


@pytest.mark.parametrize("bridge", ["script", "off"])
def test_a_build_that_a_person_stops_ends_with_its_dialled_agent(plant: SshPlant, bridge: str) -> None:
    plant.start(bridge=bridge)
    freestyle = plant.queued(plant.freestyle("f", "sleep 600"))
    plant.stop_in_shell(freestyle)
    assert plant.jenkins.wait_build(freestyle)["result"] == "ABORTED"
    plant.nothing_left()
