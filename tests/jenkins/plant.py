"""A real controller with a sidecar of its own beside it: agents are local processes with the controller's agent.jar."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller import RealController

from tests.jenkins.owned_jobs import OwnedJobs
from tests.sidecar_process import SidecarProcess

MATRIX = """
<matrix-project><properties/><canRoam>true</canRoam><axes>
<hudson.matrix.LabelAxis><name>where</name><values><string>{label}</string></values></hudson.matrix.LabelAxis>
<hudson.matrix.TextAxis><name>n</name><values>{values}</values></hudson.matrix.TextAxis>
</axes><builders><hudson.tasks.Shell><command>{shell}</command></hudson.tasks.Shell></builders>
<publishers/><buildWrappers/>
<executionStrategy class="hudson.matrix.DefaultMatrixExecutionStrategyImpl">
<runSequentially>false</runSequentially></executionStrategy></matrix-project>
"""


class Plant(OwnedJobs):
    """Jobs, builds and leftovers of one owner; labels and names begin with it."""

    def __init__(self, jenkins: RealController, folder: Path, owner: str, *, user: str = "", token: str = "") -> None:
        super().__init__(jenkins, owner)
        self.folder = folder
        self.user, self.token = user or jenkins.user, token or jenkins.token
        folder.mkdir(parents=True, exist_ok=True)
        self.sidecar: SidecarProcess

    def configuration(self, *, bridge: str, max_agents: int = 4, label: str | None = None) -> dict[str, Any]:
        main = {"name": "main", "url": self.jenkins.url, "user": self.user, "token": {"env": "JENKINS_TOKEN"}}
        here = {"backend": "process", "work_dir": str(self.folder / "agents")}
        return {
            "id": self.owner,
            "controllers": [{**main, "bridge": bridge, "poll_interval": 0.3}],
            "providers": [
                {**here, "name": "box", "max_agents": max_agents},
                {**here, "name": "no-java", "max_agents": 4, "java": "/nonexistent/java"},
            ],
            "templates": [
                {"name": "one", "labels": [label or self.owner], "providers": ["box"]},
                # one for each build that fails: a template that fails again and again is given a pause
                *(
                    {"name": name, "labels": [f"{self.owner}-{name}"], "providers": ["no-java"], "retries": 0}
                    for name in ("broken-a", "broken-b", "broken-c")
                ),
            ],
        }

    def prepare(self, **configuration: Any) -> SidecarProcess:
        self.sidecar = SidecarProcess(self.folder, self.configuration(**configuration), token=self.token)
        return self.sidecar

    def start(self, **configuration: Any) -> SidecarProcess:
        self.prepare(**configuration).start()
        return self.sidecar

    def matrix(self, name: str, shell: str, values: tuple[str, ...]) -> str:
        texts = "".join(f"<string>{value}</string>" for value in values)
        return self.add(name, MATRIX.format(label=self.owner, values=texts, shell=shell))

    def agents_in(self, console: str) -> list[str]:
        """The agents that a console says it was built on."""
        return re.findall(r"^built on (one-[a-z0-9]+)$", console, re.MULTILINE)

    def ours(self) -> dict[str, Any]:
        """What carries our mark, or waits."""
        folder = self.folder / "agents" / self.owner
        return {
            "nodes": self.nodes(),
            "folders": sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [],
            "agents": int(self.sidecar.metric("agents")),
        }

    def nothing_left(self, *, within_s: float = 90.0) -> None:
        deadline = time.monotonic() + within_s
        while any((left := self.ours()).values()):
            assert time.monotonic() < deadline, f"left behind: {left}\n{self.sidecar.log()}"
            time.sleep(0.2)

    def end(self) -> None:
        """Jobs with what waits or runs of them, then the sidecar, once it has removed its agents."""
        try:
            self.end_jobs()
            if hasattr(self, "sidecar"):
                self.nothing_left()
        finally:
            if hasattr(self, "sidecar"):
                self.sidecar.stop()


def provisioner_lines(console: str) -> list[str]:
    return [line.removeprefix("[provisioner] ") for line in console.splitlines() if line.startswith("[provisioner] ")]


def all_succeeded(plant: Plant, builds: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = {job: str(build["result"]) for job, build in builds.items() if build["result"] != "SUCCESS"}
    assert not wrong, f"{wrong}\n" + "\n".join(plant.jenkins.console(job) for job in wrong)
