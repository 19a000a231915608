"""`provisioner doctor` at a real controller, with an engine where there is one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from controller import RealController, freestyle_xml

Found = dict[tuple[str, str], dict[str, str]]


class Doctor:
    def __init__(self, jenkins: RealController, folder: Path) -> None:
        self.jenkins = jenkins
        self.folder = folder
        self.token = folder / "token"
        self.token.write_text(jenkins.token)
        jenkins.create_job("doctor-job", freestyle_xml())
        self.settings: dict[str, Any] = {
            "id": f"doc{os.getpid()}",
            "state": str(folder / "state.db"),
            "controllers": [
                {"name": "main", "url": jenkins.url, "user": jenkins.user, "token": {"file": str(self.token)}}
            ],
            "providers": [{"name": "here", "backend": "process", "max_agents": 2}],
            "templates": [{"name": "small", "labels": ["x"], "providers": ["here"], "remote_fs": str(folder / "fs")}],
        }

    def run(self, *options: str, status: int = 0) -> Found:
        file = self.folder / "doctor.yaml"
        file.write_text(yaml.safe_dump(self.settings))
        command = [sys.executable, "-m", "provisioner", "doctor", "-c", str(file), "--json", *options]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == status, ended.stdout + ended.stderr
        return {(f["subject"], f["check"]): f for f in json.loads(ended.stdout)["findings"]}


@pytest.fixture
def doctor(real_jenkins: RealController, tmp_path: Path) -> Doctor:
    return Doctor(real_jenkins, tmp_path)


def failed(found: Found) -> set[tuple[str, str]]:
    return {key for key, finding in found.items() if finding["verdict"] == "fail"}


def test_all_is_well_and_an_agent_connects(doctor: Doctor) -> None:
    found = doctor.run()
    assert failed(found) == set()
    text = {check: f["text"] for (subject, check), f in found.items() if subject == "controller main"}
    assert text["version"].startswith("Jenkins 2.")
    assert text["bridge"] in ("there", "can be put in through the script console")  # another test may have put it in
    assert text["permissions"] == "Overall/Administer: everything"
    assert re.fullmatch(r"127\.0\.0\.1:\d+ speaks the agents' protocol", text["agent port"])
    assert text["pings"].startswith("agents are pinged every 300 s (time-out 240 s), WebSockets every 30 s")
    assert text["WebSocket"] == "an agent's connection is taken"
    assert re.match(r"Java \d+, image", found["template small on here", "Java"]["text"])
    assert "connected and removed in" in found["template small on here", "agent"]["text"]
    assert not [name for name in doctor.jenkins.nodes() if name.startswith("doctor-")]


def test_an_account_that_lacks_what_it_needs_is_told_what(doctor: Doctor) -> None:
    password = "a-reader-s-password"
    doctor.jenkins.script(
        f"""
        import hudson.security.*
        def j = jenkins.model.Jenkins.get()
        j.securityRealm.createAccount('reader', '{password}')
        def old = j.authorizationStrategy
        def rights = new GlobalMatrixAuthorizationStrategy()
        rights.add(jenkins.model.Jenkins.ADMINISTER, '{doctor.jenkins.user}')
        rights.add(jenkins.model.Jenkins.READ, 'reader')
        j.authorizationStrategy = rights
        """
    )
    try:
        doctor.settings["controllers"][0]["user"] = "reader"
        doctor.token.write_text(password)
        found = doctor.run("--read-only", status=1)
        assert failed(found) == {("controller main", "permissions")}
        assert "the account lacks Agent/Create" in found["controller main", "permissions"]["text"]
        assert "Agent/Connect" in found["controller main", "permissions"]["fix"]
        assert found["controller main", "bridge"]["verdict"] == "warn"
        assert found["controller main", "jobs"]["verdict"] == "warn"
        found = doctor.run(status=1)
        assert "lacks the permission Agent/Create" in found["controller main", "WebSocket"]["text"]
    finally:
        doctor.jenkins.script(
            """
            def j = jenkins.model.Jenkins.get()
            def strategy = new hudson.security.FullControlOnceLoggedInAuthorizationStrategy()
            strategy.allowAnonymousRead = false
            j.authorizationStrategy = strategy
            hudson.model.User.getById('reader', false)?.delete()
            """
        )


def test_settings_that_lose_agents_are_told(doctor: Doctor) -> None:
    doctor.jenkins.script(
        "System.setProperty('hudson.slaves.ChannelPinger.pingIntervalSeconds', '-1');"
        "jenkins.model.Jenkins.get().slaveAgentPort = -1; jenkins.model.Jenkins.get().doQuietDown()"
    )
    try:
        found = doctor.run("--read-only")
        assert "an agent that hangs is never noticed" in found["controller main", "pings"]["text"]
        assert found["controller main", "agent port"]["text"] == "there is none, and no template needs it"
        assert found["controller main", "quiet down"]["verdict"] == "warn"
    finally:
        doctor.jenkins.script(
            "System.clearProperty('hudson.slaves.ChannelPinger.pingIntervalSeconds');"
            "jenkins.model.Jenkins.get().slaveAgentPort = 0; jenkins.model.Jenkins.get().doCancelQuietDown()"
        )


@pytest.mark.docker
def test_an_engine_is_tried_from_inside_a_container(doctor: Doctor) -> None:
    try:
        engine = docker.from_env(timeout=60)
        engine.images.get("jenkins-provisioner-test/agent:latest")
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine with the test images here: {error}")
    url = doctor.jenkins.url
    doctor.settings["providers"] = [
        {"name": "host", "backend": "docker", "max_agents": 2, "network": "host"},
        {
            "name": "bridged",
            "backend": "docker",
            "max_agents": 2,
            "network": f"{doctor.settings['id']}-net",
            "agent_url": "http://j.invalid/",
        },
        {"name": "lost", "backend": "docker", "max_agents": 2, "network": "no-such-network"},
    ]
    image = "jenkins-provisioner-test/agent:latest"
    doctor.settings["templates"] = [
        {"name": "good", "labels": ["a"], "providers": ["host", "bridged", "lost"], "image": image},
        {"name": "bare", "labels": ["b"], "providers": ["host"], "image": "jenkins-provisioner-test/busybox:latest"},
        {"name": "none", "labels": ["c"], "providers": ["host"], "image": "127.0.0.1:9/nobody/nothing:1"},
    ]
    network = engine.networks.create(f"{doctor.settings['id']}-net")
    try:
        found = doctor.run(status=1)
    finally:
        network.remove()
    assert found["template good on host", "agent"]["verdict"] == "ok"
    assert url in found["template good on host", "agent"]["text"]
    away = found["template good on bridged", "agent"]
    assert away["verdict"] == "fail"
    assert "the name in `agent_url` is not known where agents run" in away["fix"]
    assert "no network `no-such-network`" in found["template good on lost", "template"]["text"]
    bare = [f for (subject, _), f in found.items() if subject == "template bare on host" and f["verdict"] == "fail"]
    assert len(bare) == 1
    assert "java" in (bare[0]["text"] + bare[0]["fix"]).lower()
    assert ("template bare on host", "agent") not in found
    assert "127.0.0.1:9/nobody/nothing:1" in found["template none on host", "template"]["text"]
    assert ("provider lost", "agent_url") in failed(found)
    labels: dict[str, str | list[str] | bool] = {"label": f"jenkins-provisioner.owner={doctor.settings['id']}-doctor"}
    assert engine.containers.list(all=True, filters=labels) == []
    assert engine.volumes.list(filters=labels) == []
    engine.close()
