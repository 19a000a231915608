"""A sidecar beside the stand-in, both processes of their own, with jobs that are built once each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller import freestyle_xml

from tests import leaks
from tests.builds import build, create_job, result
from tests.faults.killing import config
from tests.sidecar_process import SidecarProcess
from tests.standin_process import StandinProcess


class Plant:
    """A sidecar beside the stand-in, with one job."""

    def __init__(self, standin: StandinProcess, folder: Path, **more: Any) -> None:
        self.standin = standin
        self.owner = leaks.new_owner()
        self.sidecar = SidecarProcess(folder, {**config(standin, "process", self.owner), **more}, token=standin.token)
        self.jobs: list[str] = []

    def build(self, shell: str = "true") -> str:
        name = f"job-{len(self.jobs)}"
        self.jobs.append(name)
        create_job(self.standin, name, freestyle_xml(shell, label="linux"))
        build(self.standin, name)
        return name

    def result(self, name: str) -> str | None:
        return result(self.standin, name)

    def ours(self) -> list[str]:
        return [name for name in self.standin.state()["nodes"] if name.startswith("any-")]

    def at_rest(self) -> None:
        """Every build ran, once; nothing is left."""
        for name in self.jobs:
            self.sidecar.until(lambda n=name: self.result(n) == "SUCCESS", f"{name} ends well")  # type: ignore[misc]
        self.sidecar.until(lambda: not self.ours(), "no node is left")
        self.sidecar.until(lambda: self.sidecar.metric("agents") == 0, "no agent is left")
        ran = [record["build"] for record in self.standin.state()["history"]]
        assert sorted(ran) == sorted(f"job/{name}/1/" for name in self.jobs)
        assert not leaks.left_of(self.owner)
