"""`kill -9` of a real process with real agents, at a sample of the points; the next process puts everything right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import leaks
import pytest

from tests.sidecar_process import SidecarProcess
from tests.standin_process import Asked, StandinProcess, ask, load_controller_module

pytestmark = [pytest.mark.standin, pytest.mark.timeout(600)]

TOOLS = load_controller_module()
ROOT = Path(__file__).parents[2]

#: A provider for each backend; everything else is the same for all. `docker` needs agents of a real controller.
PROVIDERS: dict[str, Callable[[Asked], dict[str, Any]]] = {
    "process": lambda controller: {"backend": "process", "java": controller.java},
    "docker": lambda _controller: {"backend": "docker", "network": "host"},
}
#: Points at which the quick run kills; the slow one takes every one.
SAMPLE = (1, 5, 12, 19, 27, 37)


class CrashingSidecar(SidecarProcess):
    """Dies by its own hand at a point, and is an ordinary sidecar after that."""

    @property
    def points_file(self) -> Path:
        return self.folder / "points"

    def start_to_die(self, at: int) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.faults.crashing_sidecar", "run", "-c", str(self.config_file)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
                    "JENKINS_TOKEN": self._token,
                    leaks.RUN_VARIABLE: os.environ.get(leaks.RUN_VARIABLE, "1"),
                    "DIE_AT": str(at),
                    "POINTS_FILE": str(self.points_file),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def config(
    controller: Asked, backend: str, owner: str, *, label: str = "linux", template: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "id": owner,
        "controllers": [
            {"name": "main", "url": controller.url, "user": controller.user, "token": {"env": "JENKINS_TOKEN"}},
        ],
        "providers": [{"name": "here", "max_agents": 2, **PROVIDERS[backend](controller)}],
        "templates": [{"name": "any", "labels": [label], "providers": ["here"], **(template or {})}],
    }


def end_gateway(folder: Path) -> None:
    """The SSH gateway outlives its sidecar on purpose."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"provisioner.gateway" in words and any(str(folder).encode() in word for word in words):
                os.kill(int(entry.name), signal.SIGTERM)


def killed_at(
    controller: Asked,
    folder: Path,
    backend: str,
    at: int,
    *,
    xml: str = "",
    template: Mapping[str, Any] | None = None,
) -> list[str]:
    """One build, one death, one successor; the points passed. Raises if anything was lost, doubled or left."""
    owner = leaks.new_owner()
    settings = config(controller, backend, owner, label=owner, template=template)
    sidecar = CrashingSidecar(folder, settings, token=controller.token)
    job = f"job-{owner}-{at}"
    xml = (xml or TOOLS.freestyle_xml("sleep 1; echo done", label="LABEL")).replace("LABEL", owner)
    made = ask(controller, "POST", f"createItem?name={job}", body=xml, headers={"Content-Type": "text/xml"})
    assert made.status == 200

    def result() -> str | None:
        reply = ask(controller, "GET", f"job/{job}/1/api/json")
        return None if reply.status != 200 or reply.json()["building"] else reply.json()["result"]

    def ours() -> list[str]:
        tree = "computer/api/json?tree=computer[displayName,description]"
        computers = ask(controller, "GET", tree).json()["computer"]
        return [c["displayName"] for c in computers if f"owner={owner} " in (c.get("description") or "")]

    doomed = sidecar.start_to_die(at)
    try:
        assert ask(controller, "POST", f"job/{job}/build?delay=0sec").status == 201
        sidecar.until(
            lambda: doomed.poll() is not None or (result() and not ours()), "it died or was done", within_s=180
        )
        died = doomed.poll() is not None
    finally:
        doomed.kill()
        doomed.wait(10)
    try:
        sidecar.start()
        sidecar.until(result, "the build ended", within_s=180)
        sidecar.until(lambda: not ours(), "no node is left", within_s=180)
        sidecar.until(lambda: sidecar.metric("agents") == 0, "no agent is left")
    finally:
        sidecar.stop()
        end_gateway(folder)
    entries = ask(controller, "GET", "credentials/store/system/domain/_/api/json?tree=credentials[id]")
    if entries.status == 200:  # a controller with the plugin for them
        assert not [entry["id"] for entry in entries.json()["credentials"] if f".{owner}." in entry["id"]]
    console = ask(controller, "GET", f"job/{job}/1/consoleText").text
    assert result() == "SUCCESS", console
    assert console.count("+ echo done") == 1, console
    assert len(ask(controller, "GET", f"job/{job}/api/json?tree=builds[number]").json()["builds"]) == 1
    assert not leaks.left_of(owner)
    ask(controller, "POST", f"job/{job}/doDelete")
    points = sidecar.points_file.read_text().splitlines()
    assert not died or len(points) == at + 1
    return points


@pytest.mark.parametrize("backend", ["process"])
@pytest.mark.parametrize("at", SAMPLE)
def test_killed_at_a_point_its_build_runs_once_and_nothing_is_left(
    standin: StandinProcess, tmp_path: Path, backend: str, at: int
) -> None:
    killed_at(standin, tmp_path, backend, at)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["process"])
def test_killed_at_every_point_its_build_runs_once_and_nothing_is_left(
    standin: StandinProcess, tmp_path: Path, backend: str
) -> None:
    at = 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        points = killed_at(standin, folder, backend, at)
        if len(points) <= at:  # it lived to the end
            break
        at += 1
    assert at > 30
