"""The dirty/clean scheduler beside the stand-in, by plain REST."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from controller import freestyle_xml, pipeline_xml

from tests.builds import create_job
from tests.sidecar_process import SidecarProcess
from tests.standin_process import AgentProcess, StandinProcess, ask, eventually

NAMES = ("s1", "s2")


class Nodes:
    """Two long-lived nodes, and the job that cleans them."""

    def __init__(self, standin: StandinProcess, folder: Path) -> None:
        self.standin = standin
        self.folder = folder
        self.agents: list[AgentProcess] = []
        script = "node(params.NODE) { sh 'test ! -e ../../broken' }"
        create_job(standin, "node-cleanup", pipeline_xml(script, parameters={"NODE": ""}))
        # by plain REST a build is seen only while it runs
        create_job(standin, "work", freestyle_xml("until [ -e ../../go ]; do sleep 0.1; done", label="clean"))
        for name in NAMES:
            node = {
                "name": name,
                "labelString": "linux cleanable",
                "remoteFS": str(folder / name),
                "numExecutors": "1",
                "launcher": {"stapler-class": "hudson.slaves.JNLPLauncher", "webSocket": True},
            }
            form = {"name": name, "type": "hudson.slaves.DumbSlave", "json": json.dumps(node)}
            assert ask(standin, "POST", "computer/doCreateItem", form=form).status == 302
            self.agents.append(AgentProcess(standin, name, folder))
        eventually(lambda: not any(self.computer(name)["offline"] for name in NAMES), "both are connected")

    def computer(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.standin, "GET", f"computer/{name}/api/json").json()
        return found

    def labels(self, name: str) -> set[str]:
        return {label["name"] for label in self.computer(name)["assignedLabels"]} - {name}

    def settings(self) -> dict[str, Any]:
        controller = {
            "name": "main",
            "url": self.standin.url,
            "user": self.standin.user,
            "token": {"env": "JENKINS_TOKEN"},
            "bridge": "off",
        }
        cleanup = {"controller": "main", "job": "node-cleanup", "interval": 1, "retry_after": 0, "retries": 1}
        return {"id": f"s{os.getpid()}", "controllers": [controller], "cleanup": cleanup}

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        file = self.folder / "provisioner.yaml"
        file.write_text(yaml.safe_dump(self.settings()))
        return subprocess.run(
            [sys.executable, "-m", "provisioner", "cleanup", "-c", str(file), *options],
            env={**os.environ, "JENKINS_TOKEN": self.standin.token},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def end(self) -> None:
        for agent in self.agents:
            agent.end()


@pytest.fixture
def nodes(standin: StandinProcess, tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(standin, tmp_path)
    yield made
    made.end()


def test_one_round_cleans_what_is_due_and_tells_what_failed(nodes: Nodes) -> None:
    planned = nodes.run("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert [line.split()[:3] for line in planned.stdout.splitlines()[1:]] == [[n, "new", "mark-dirty"] for n in NAMES]
    assert nodes.labels("s1") == {"linux", "cleanable"}

    (nodes.folder / "s2").mkdir(exist_ok=True)
    (nodes.folder / "s2" / "broken").touch()
    ended = nodes.run("--once")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "s1: mark-clean: its cleaning #" in ended.stdout
    assert nodes.labels("s1") == {"linux", "cleanable", "clean"}
    assert nodes.labels("s2") == {"linux", "cleanable", "dirty"}
    assert nodes.computer("s2")["offlineCauseReason"].startswith("[provisioner] quarantine: 2 cleanings in a row")

    (nodes.folder / "s2" / "broken").unlink()
    assert nodes.run("--recover", "s2").stdout == "s2 is back; the next pass cleans it\n"
    ended = nodes.run("--once", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [row["state"] for row in json.loads(ended.stdout)["nodes"]] == ["clean", "clean"]


def test_a_job_that_cannot_clean_is_a_clear_error_and_changes_nothing(nodes: Nodes) -> None:
    ask(nodes.standin, "POST", "job/node-cleanup/doDelete")
    ended = nodes.run("--once")
    assert ended.returncode == 1
    assert "controller main: there is no job node-cleanup for cleaning" in ended.stderr
    create_job(nodes.standin, "node-cleanup", freestyle_xml("true"))
    ended = nodes.run("--once")
    assert ended.returncode == 1
    assert "job node-cleanup has no parameter NODE; give it one" in ended.stderr
    assert nodes.labels("s1") == {"linux", "cleanable"}


def test_the_sidecar_does_it_too(nodes: Nodes, tmp_path: Path) -> None:
    folder = tmp_path / "sidecar"
    folder.mkdir()
    sidecar = SidecarProcess(folder, nodes.settings(), token=nodes.standin.token)
    sidecar.start(ready=False)
    try:
        eventually(lambda: all("clean" in nodes.labels(name) for name in NAMES), "both are clean", within_s=60)
        assert ask(nodes.standin, "POST", "job/work/build?delay=0sec").status == 201
        eventually(lambda: any("dirty" in nodes.labels(name) for name in NAMES), "one was used")
        for name in NAMES:
            (nodes.folder / name / "go").touch()
        eventually(lambda: all("clean" in nodes.labels(name) for name in NAMES), "both are clean again", within_s=60)
        assert "cleanup" in json.loads(sidecar.get("/healthz")[1])["loops"]
    finally:
        began = time.monotonic()
        sidecar.stop()
    assert time.monotonic() - began < 10
