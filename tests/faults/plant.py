"""A sidecar beside the stand-in, both processes of their own, with jobs that are built once each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import leaks

from tests.faults.test_kill_for_real import TOOLS, config
from tests.sidecar_process import SidecarProcess
from tests.standin_process import StandinProcess, ask


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
        xml = TOOLS.freestyle_xml(shell, label="linux")
        made = ask(self.standin, "POST", f"createItem?name={name}", body=xml, headers={"Content-Type": "text/xml"})
        assert made.status == 200
        assert ask(self.standin, "POST", f"job/{name}/build?delay=0sec").status == 201
        return name

    def result(self, name: str) -> str | None:
        reply = ask(self.standin, "GET", f"job/{name}/1/api/json")
        return None if reply.status != 200 or reply.json()["building"] else reply.json()["result"]

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
