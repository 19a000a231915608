"""Every verb that asks a running sidecar, as a person types it: a process beside a sidecar of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controller import freestyle_xml

from tests.builds import build, create_job, nodes, result
from tests.sidecar_process import SidecarProcess
from tests.standin.configuration import configured
from tests.standin_process import StandinProcess, ask


@pytest.fixture
def sidecar(standin: StandinProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    config = configured(standin)
    config["providers"][0]["max_agents"] = 1
    made = SidecarProcess(tmp_path, config, token=standin.token)
    made.start()
    yield made
    made.stop()


def verb(sidecar: SidecarProcess, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", *words, "-c", str(sidecar.config_file)],
        env={**os.environ, "JENKINS_TOKEN": "unused"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done
    return done.stdout + done.stderr


def listed(sidecar: SidecarProcess, what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(verb(sidecar, "list", what, "--json"))[what]
    return found


def test_list_drain_explain_resume_logs_hold_delete_release(
    standin: StandinProcess, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    create_job(standin, "long", freestyle_xml(f"while [ ! -e {gate} ]; do sleep 0.1; done", label="linux"))
    create_job(standin, "next", freestyle_xml("echo next", label="linux"))
    verb(sidecar, "drain", "here")
    build(standin, "long")
    sidecar.until(lambda: sidecar.metric("requests", state="waiting") == 1, "it waits")
    (waiting,) = listed(sidecar, "requests")
    assert waiting["waits_for"] == ["provider here is draining: `provisioner drain`"]
    said = verb(sidecar, "explain", str(waiting["queue_id"])).splitlines()
    assert said[1] == "  next: an agent is started as soon as somebody says `provisioner resume here`"
    assert said[2:] == [
        "  template any: wait: provider here is draining: `provisioner drain`",
        "  provider here: wait: provider here is draining: `provisioner drain`",
    ]
    assert not nodes(standin)
    verb(sidecar, "resume", "here")
    sidecar.until(lambda: sidecar.metric("agents", state="running") == 1, "it runs")
    (agent,) = listed(sidecar, "agents")
    name = agent["name"]
    following = subprocess.Popen(
        [sys.executable, "-m", "provisioner", "logs", name, "-f", "-c", str(sidecar.config_file)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "a build runs on" in verb(sidecar, "delete", name, status=1)
        verb(sidecar, "hold", name, "--for", "10m", "--reason", "look")
        build(standin, "next")
        gate.touch()
        sidecar.until(lambda: result(standin, "long") == "SUCCESS", "the build ends")
        sidecar.until(lambda: sidecar.metric("agents", state="finished") == 1, "it is over, and kept")
        sidecar.until(lambda: sidecar.metric("requests", state="waiting") == 1, "the next one waits for the held slot")
        gate.unlink()
        assert "provider here is full (1 of 1 agents)" in verb(sidecar, "explain", "linux")
        assert name in nodes(standin)
        assert "held" in verb(sidecar, "list")
        verb(sidecar, "release", name)
        out, _ = following.communicate(timeout=30)
    finally:
        following.kill()
    lines = out.splitlines()
    assert "serves this build with the agent" in lines[0]
    assert any("It is held for debugging" in line for line in lines)
    assert f"Agent {name} is done" in lines[-1]
    sidecar.until(lambda: result(standin, "next") == "SUCCESS", "the next one has its turn")
    # delete --now takes a build along
    build(standin, "long")
    sidecar.until(lambda: sidecar.metric("agents", state="running") == 1, "it runs again")
    (agent,) = [a for a in listed(sidecar, "agents") if a["state"] == "running"]
    verb(sidecar, "delete", agent["name"], "--now")
    sidecar.until(lambda: agent["name"] not in nodes(standin), "it is gone")
    assert ask(standin, "GET", "job/long/2/api/json").json()["result"] != "SUCCESS"
    assert {row["name"] for row in listed(sidecar, "providers")} == {"here"}
    assert {row["name"] for row in listed(sidecar, "templates")} == {"any"}
    assert "there is no agent" in verb(sidecar, "logs", "nobody", status=1)
    assert verb(sidecar, "orphans") == "no orphans\n"
