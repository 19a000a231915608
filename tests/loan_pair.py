"""Two controllers of one configuration, and what is asked about a loan between them, whichever kind they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from tests.builds import get
from tests.seen_processes import processes
from tests.ssh_machine import SshMachine
from tests.standin_process import Asked, ask

CLEANING = "node-cleanup"

C = TypeVar("C", bound=Asked)


class LoanPair(Generic[C]):
    """The first has a node that can be lent; a subclass connects it, and makes the jobs."""

    node: str
    patience_s = 60.0

    def __init__(self, lender: C, borrower: C, folder: Path, root: Path) -> None:
        self.lender, self.borrower, self.folder, self.root = lender, borrower, folder, root
        self.loans_folder = root / "loans"
        self.settings: dict[str, Any] = {
            "id": f"loans{os.getpid()}",
            "controllers": [self._controller("main", lender), self._controller("other", borrower)],
            "cleanup": {"controller": "main", "job": CLEANING, "interval": 1},
            "loans": {"interval": 1},
        }

    def _controller(self, name: str, controller: C) -> dict[str, Any]:
        token = self.folder / f"{name}.token"
        token.write_text(controller.token)
        return {"name": name, "url": controller.url, "user": controller.user, "token": {"file": str(token)}}

    def by_plain_rest(self) -> None:
        for controller in self.settings["controllers"]:
            controller["bridge"] = "off"

    def reach_by_ssh(self, machine: SshMachine, **more: str) -> None:
        """The lent machine, instead of by its agent's script console."""
        way = {"ssh": f"somebody@127.0.0.1:{machine.port}", "key": str(machine.key_file), "host_key": machine.host_key}
        self.settings["loans"]["machines"] = [{"controller": "main", "node": self.node, **way, **more}]

    def add_node(self) -> None:
        always, launcher = "hudson.slaves.RetentionStrategy$Always", "hudson.slaves.JNLPLauncher"
        node = {
            "name": self.node,
            "nodeDescription": "a person wrote this",
            "numExecutors": "1",
            "remoteFS": str(self.root),
            "labelString": "linux cleanable",
            "mode": "EXCLUSIVE",
            "type": "hudson.slaves.DumbSlave",
            "retentionStrategy": {"stapler-class": always, "$class": always},
            "nodeProperties": {"stapler-class-bag": "true"},
            "launcher": {"stapler-class": launcher, "$class": launcher, "webSocket": True},
        }
        form = {"name": self.node, "type": "hudson.slaves.DumbSlave", "json": json.dumps(node)}
        assert ask(self.lender, "POST", "computer/doCreateItem", form=form).status == 302

    # the command

    def command(self, *options: str) -> list[str]:
        file = self.folder / "loans.yaml"
        file.write_text(yaml.safe_dump(self.settings))
        return [sys.executable, "-m", "provisioner", "loan", "-c", str(file), *options]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*options)
        return subprocess.run(command, capture_output=True, text=True, timeout=self.patience_s, check=False)

    def lend(self, *options: str) -> str:
        """The name of the borrower's node."""
        ended = self.run(self.node, "--to", "other", "--labels", "gpu big", *options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        (name,) = self.guests()
        return name

    def loans(self) -> list[dict[str, Any]]:
        ended = self.run("--json")
        assert ended.returncode == 0, ended.stderr
        rows: list[dict[str, Any]] = json.loads(ended.stdout)["loans"]
        return rows

    # the two controllers

    def home(self) -> dict[str, Any]:
        """The node at the lender."""
        found: dict[str, Any] = get(self.lender, f"computer/{self.node}/api/json")
        return found

    def home_labels(self) -> set[str]:
        return {label["name"] for label in self.home()["assignedLabels"]} - {self.node}

    def guests(self) -> list[str]:
        """The borrower's nodes that are lent ones."""
        computers = get(self.borrower, "computer/api/json")["computer"]
        return [c["displayName"] for c in computers if c["displayName"].startswith("loan-")]

    def guest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = get(self.borrower, f"computer/{name}/api/json")
        return found

    # the machine

    def journal(self) -> list[str]:
        """What the jobs wrote, in their order."""
        file = self.root / "journal"
        return file.read_text().split() if file.exists() else []

    def processes(self, name: str) -> list[str]:
        """The command lines of what carries a loan's mark."""
        return [cmd for cmd, environ in processes() if f"JENKINS_PROVISIONER_LOAN={name}" in environ]

    def nothing_left(self, name: str) -> None:
        assert self.guests() == []
        assert self.processes(name) == []
        assert not self.loans_folder.exists()
