"""A sidecar that dies at a point of one agent's life, and its successor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller import freestyle_xml

from tests import leaks
from tests.builds import build, create_job, result
from tests.seen_processes import end_gateways
from tests.sidecar_process import SidecarProcess
from tests.standin_process import Asked, ask

ROOT = Path(__file__).parents[2]

#: A provider for each backend; everything else is the same for all. `docker` needs agents of a real controller.
PROVIDERS: dict[str, Callable[[Asked], dict[str, Any]]] = {
    "process": lambda controller: {"backend": "process", "java": controller.java},
    "docker": lambda _controller: {"backend": "docker", "network": "host"},
}


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
                    "PYTHONPATH": str(ROOT),
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
    xml = (xml or freestyle_xml("sleep 1; echo done", label="LABEL")).replace("LABEL", owner)
    create_job(controller, job, xml)

    def ours() -> list[str]:
        tree = "computer/api/json?tree=computer[displayName,description]"
        computers = ask(controller, "GET", tree).json()["computer"]
        return [c["displayName"] for c in computers if f"owner={owner} " in (c.get("description") or "")]

    def entries() -> list[str]:
        found = ask(controller, "GET", "credentials/store/system/domain/_/api/json?tree=credentials[id]")
        if found.status != 200:  # a controller without the plugin for them
            return []
        return [entry["id"] for entry in found.json()["credentials"] if f".{owner}." in entry["id"]]

    doomed = sidecar.start_to_die(at)
    try:
        build(controller, job)
        sidecar.until(
            lambda: doomed.poll() is not None or (result(controller, job) and not ours()),
            "it died or was done",
            within_s=180,
        )
        died = doomed.poll() is not None
    finally:
        doomed.kill()
        doomed.wait(10)
    try:
        sidecar.start()
        sidecar.until(lambda: result(controller, job), "the build ended", within_s=180)
        sidecar.until(lambda: not ours(), "no node is left", within_s=180)
        sidecar.until(lambda: sidecar.metric("agents") == 0, "no agent is left")
        sidecar.until(lambda: not entries(), "no credentials entry is left", within_s=180)
    finally:
        sidecar.stop()
        end_gateways(folder)
    console = ask(controller, "GET", f"job/{job}/1/consoleText").text
    assert result(controller, job) == "SUCCESS", console
    assert console.count("+ echo done") == 1, console
    assert len(ask(controller, "GET", f"job/{job}/api/json?tree=builds[number]").json()["builds"]) == 1
    assert not leaks.left_of(owner)
    ask(controller, "POST", f"job/{job}/doDelete")
    points = sidecar.points_file.read_text().splitlines()
    assert not died or len(points) == at + 1
    return points
