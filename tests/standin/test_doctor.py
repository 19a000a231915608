"""`provisioner doctor` beside the stand-in: what works, what does not, and that nothing is left."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from controller import freestyle_xml

from provisioner.controller.bridge_script import content
from tests.sidecar_process import free_port
from tests.standin_process import StandinProcess, ask, eventually


class Doctor:
    """A configuration that works, to be spoilt."""

    def __init__(self, standin: StandinProcess, folder: Path) -> None:
        self.standin = standin
        self.folder = folder
        self.token = folder / "token"
        self.token.write_text(standin.token)
        ask(standin, "POST", "createItem?name=job", body=freestyle_xml(), headers={"Content-Type": "text/xml"})
        self.settings: dict[str, Any] = {
            "id": f"doc{os.getpid()}",
            "state": str(folder / "state.db"),
            "controllers": [
                {"name": "main", "url": standin.url, "user": standin.user, "token": {"file": str(self.token)}}
            ],
            "providers": [{"name": "here", "backend": "process", "max_agents": 2, "java": standin.java}],
            "templates": [{"name": "small", "labels": ["x"], "providers": ["here"], "remote_fs": str(folder / "fs")}],
        }

    def command(self, *options: str) -> list[str]:
        file = self.folder / "doctor.yaml"
        file.write_text(yaml.safe_dump(self.settings))
        return [sys.executable, "-m", "provisioner", "doctor", "-c", str(file), *options]

    def run(self, *options: str, status: int = 0) -> dict[tuple[str, str], dict[str, str]]:
        ended = subprocess.run(
            self.command("--json", *options), capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        body = json.loads(ended.stdout)
        assert body["fail"] == sum(f["verdict"] == "fail" for f in body["findings"])
        assert all(f["fix"] for f in body["findings"] if f["verdict"] != "ok")
        return {(f["subject"], f["check"]): f for f in body["findings"]}

    def nodes(self) -> list[str]:
        computers = ask(self.standin, "GET", "computer/api/json").json()["computer"]
        return [c["displayName"] for c in computers][1:]

    def marked(self) -> list[str]:
        """Folders of instances that are left."""
        work = self.folder / "work" / "here"
        return [str(f) for f in work.rglob("doctor-*")] if work.exists() else []


@pytest.fixture
def doctor(standin: StandinProcess, tmp_path: Path) -> Doctor:
    return Doctor(standin, tmp_path)


def test_everything_that_works_is_told_and_an_agent_connects_and_goes(doctor: Doctor) -> None:
    found = doctor.run()
    assert {f["verdict"] for f in found.values()} <= {"ok", "warn"}
    for check in (
        "reach",
        "version",
        "session",
        "clock",
        "account",
        "bridge",
        "permissions",
        "agent port",
        "WebSocket",
    ):
        assert found["controller main", check]["verdict"] == "ok", check
    for check in ("template", "instance", "Java", "agent"):
        assert found["template small on here", check]["verdict"] == "ok", check
    assert "connected and removed in" in found["template small on here", "agent"]["text"]
    assert found["this machine", "state"]["verdict"] == "ok"
    assert (doctor.nodes(), doctor.marked()) == ([], [])

    text = subprocess.run(doctor.command(), capture_output=True, text=True, timeout=120, check=True).stdout
    assert "controller main\n  ok    reach  " in text
    assert text.rstrip().endswith("0 failed")


def test_an_agent_that_is_dialled_is_tried_too(doctor: Doctor) -> None:
    doctor.settings["templates"][0]["transport"] = "ssh"
    found = doctor.run()
    assert found["template small on here", "agent"]["verdict"] == "ok"
    text = found["template small on here", "agent"]["text"]
    assert text.startswith("is reached by the controller over ssh: connected and removed in "), text
    assert (doctor.nodes(), doctor.marked(), entries(doctor)) == ([], [], [])


def test_an_instance_that_cannot_be_dialled_is_told_with_the_way_there(doctor: Doctor) -> None:
    doctor.settings["templates"][0] |= {"transport": "ssh", "timeouts": {"connect": 3}}
    doctor.settings["providers"][0]["ssh_host"] = "nowhere.invalid"
    found = doctor.run(status=1)
    agent = found["template small on here", "agent"]
    assert agent["verdict"] == "fail"
    assert "no SSH server answers at nowhere.invalid port" in agent["text"]
    assert "ssh_host" in agent["fix"]
    assert (doctor.nodes(), doctor.marked(), entries(doctor)) == ([], [], [])


def entries(doctor: Doctor) -> list[object]:
    path = "credentials/store/system/domain/_/api/json"
    return list(ask(doctor.standin, "GET", path).json()["credentials"])


def test_an_administrators_bridge_of_another_release_is_told(doctor: Doctor) -> None:
    parameters = {"mode": "init", "user": doctor.standin.user, "owners": [doctor.settings["id"]], "replace": True}
    for told, verdict in (("0123456789ab", "warn"), (content(), "ok")):
        put = ask(doctor.standin, "POST", "standin/bridge", body=json.dumps({**parameters, "content": told}))
        assert put.status < 300
        found = doctor.run("--read-only")["controller main", "bridge"]
        assert (found["verdict"], "another release" in found["text"]) == (verdict, verdict == "warn")


def test_looking_alone_makes_nothing(doctor: Doctor) -> None:
    found = doctor.run("--read-only")
    assert ("controller main", "WebSocket") not in found
    assert ("template small on here", "agent") not in found
    assert found["template small on here", "template"]["verdict"] == "ok"
    assert (doctor.nodes(), doctor.marked()) == ([], [])


def test_each_thing_that_is_wrong_fails_alone_with_its_fix(doctor: Doctor) -> None:
    (provider,) = doctor.settings["providers"]
    provider["java"] = "java-of-nowhere"
    doctor.settings["templates"].append(
        {"name": "large", "labels": ["y"], "providers": ["far"], "image": "nobody/nothing:1", "transport": "websocket"}
    )
    doctor.settings["providers"].append(
        {"name": "far", "backend": "docker", "max_agents": 1, "endpoint": "unix:///nowhere/docker.sock"}
    )
    found = doctor.run(status=1)
    failed = {key: f["text"] + " / " + f["fix"] for key, f in found.items() if f["verdict"] == "fail"}
    assert set(failed) == {
        ("template small on here", "template"),
        ("provider far", "reach"),
        ("provider far", "agent_url"),
    }
    assert "no program `java-of-nowhere`" in failed["template small on here", "template"]
    assert "inside a container is the container itself / set `agent_url`" in failed["provider far", "agent_url"]
    assert found["controller main", "WebSocket"]["verdict"] == "ok"

    doctor.token.write_text("wrong")
    found = doctor.run(status=1)
    assert "does not accept the user" in found["controller main", "reach"]["text"]
    assert "API token" in found["controller main", "reach"]["fix"]
    assert ("controller main", "WebSocket") not in found

    doctor.token.unlink()
    found = doctor.run(status=1)
    assert "cannot be read" in found["this machine", "secret of main"]["text"]


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on, but neither upgrades nor headers of Jenkins, and lives in another time."""

    standin: StandinProcess
    more: dict[str, str]

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        kept = {k: v for k, v in self.headers.items() if k.lower() in {"content-type", "node-name", "secret-key"}}
        reply = ask(self.standin, self.command, self.path.lstrip("/"), body=body, headers=kept)
        self.send_response_only(reply.status)
        self.send_header("Date", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Server", "nginx")
        self.send_header("X-Jenkins", "2.200")
        for name, value in self.more.items():
            self.send_header(name, value)
        for name in ("Content-Type", "Location"):
            if name in reply.headers:
                self.send_header(name, reply.headers[name])
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy(standin: StandinProcess) -> Iterator[tuple[str, type[_Proxy]]]:
    handler = type("Proxy", (_Proxy,), {"standin": standin, "more": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_proxy_that_takes_away_what_agents_need_is_found(doctor: Doctor) -> None:
    doctor.settings["controllers"][0]["bridge"] = "off"
    with proxy(doctor.standin) as (url, server):
        doctor.settings["controllers"][0]["url"] = url
        found = doctor.run(status=1)
        server.more = {"X-Jenkins-Session": "1"}
        with_session = doctor.run(status=1)
    failed = {check for (subject, check), f in found.items() if f["verdict"] == "fail" and subject == "controller main"}
    assert failed >= {"session", "clock", "version"}
    assert "behind ours" in found["controller main", "clock"]["text"]
    assert "has no agents over WebSocket" in found["controller main", "version"]["text"]
    assert "nginx is in between" in found["controller main", "pings"]["text"]
    assert with_session["controller main", "session"]["verdict"] == "ok"
    web_socket = with_session["controller main", "WebSocket"]
    assert web_socket["verdict"] == "fail"
    assert "let the proxy in front of Jenkins pass Upgrade" in web_socket["fix"]
    assert doctor.nodes() == []


def test_what_a_killed_doctor_left_is_removed_by_the_next_and_two_at_once_are_refused(doctor: Doctor) -> None:
    sleeper = doctor.folder / "java"
    sleeper.write_text(
        f'#!/bin/sh\ncase "$*" in *-version*) exec {doctor.standin.java} -version;; esac\nexec sleep 100\n'
    )
    sleeper.chmod(0o755)
    doctor.settings["providers"][0]["java"] = str(sleeper)
    with subprocess.Popen(doctor.command(), stdout=subprocess.DEVNULL) as killed:
        eventually(lambda: len(doctor.nodes()) == 1 and len(doctor.marked()) >= 1, "it tries an agent", within_s=60)
        second = subprocess.run(doctor.command(), capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert "another doctor of this provisioner is at work" in second.stderr
        time.sleep(0.5)
        killed.kill()
    assert len(doctor.nodes()) == 1
    doctor.settings["providers"][0]["java"] = doctor.standin.java
    doctor.run()
    assert (doctor.nodes(), doctor.marked()) == ([], [])
