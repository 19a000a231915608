"""Loans between two real controllers; the lent machine is reached by its agent's script console, or over SSH."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bridge_rig import Agents
from cleanup_plant import JOB

from tests.seen_processes import processes
from tests.ssh_machine import SshMachine

NODE = "lent-1"
_CLEAN = "node(params.NODE) { sh 'echo cleaned >> ../../journal' }"


@pytest.fixture(scope="module")
def borrower(jenkins_tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    controller = jenkins_tools.RealController(tmp_path_factory.mktemp("borrower-home"))
    controller.start()
    yield controller
    controller.stop()


class Pair:
    """Two controllers; the first has a node that can be lent, and the job that cleans it."""

    def __init__(self, lender: Any, borrower: Any, tools: Any, folder: Path) -> None:
        self.lender, self.borrower, self.folder = lender, borrower, folder
        self.agents = Agents(lender, folder)
        self.root = Path(self.agents.home(NODE))
        lender.create_job(JOB, tools.pipeline_xml(_CLEAN, parameters={"NODE": ""}))
        lender.create_job("at-home", tools.freestyle_xml("echo home >> ../../journal", label="clean"))
        away = "echo away >> ../../../../../journal; while [ -e ../../../../../stay ]; do sleep 0.2; done"
        borrower.create_job("away", tools.freestyle_xml(away, label="gpu"))
        borrower.create_job("away-pipeline", tools.pipeline_xml(f"node('gpu') {{ sh '{away}' }}"))
        always, launcher = "hudson.slaves.RetentionStrategy$Always", "hudson.slaves.JNLPLauncher"
        node = {
            "name": NODE,
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
        form = {"name": NODE, "type": "hudson.slaves.DumbSlave", "json": json.dumps(node)}
        assert lender.request("POST", "computer/doCreateItem", form=form).status == 302
        self.process = self.agents.start(NODE, self.secret(lender, NODE))
        self.until(lambda: not self.home()["offline"], "the node is connected")
        self.settings: dict[str, Any] = {
            "id": f"pair{os.getpid()}",
            "controllers": [
                {"name": name, "url": c.url, "user": c.user, "token": {"file": str(self._token(name, c.token))}}
                for name, c in (("main", lender), ("other", borrower))
            ],
            "cleanup": {"controller": "main", "job": JOB, "interval": 1, "retry_after": 1},
            "loans": {"interval": 1},
        }

    def _token(self, name: str, token: str) -> Path:
        file = self.folder / f"{name}.token"
        file.write_text(token)
        return file

    @staticmethod
    def secret(controller: Any, name: str) -> str:
        found = re.search(
            r"<argument>([0-9a-f]{64})</argument>",
            controller.request("GET", f"computer/{name}/jenkins-agent.jnlp").text,
        )
        assert found is not None
        return found[1]

    def command(self, *options: str) -> list[str]:
        file = self.folder / "loans.yaml"
        file.write_text(yaml.safe_dump(self.settings))
        return [sys.executable, "-m", "provisioner", "loan", "-c", str(file), *options]

    def run(self, *options: str, within_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*options), capture_output=True, text=True, timeout=within_s, check=False)

    def lend(self, *options: str) -> str:
        ended = self.run(NODE, "--to", "other", "--labels", "gpu big", *options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        (name,) = self.guests()
        return name

    def home(self) -> dict[str, Any]:
        found: dict[str, Any] = self.lender.get_json(f"computer/{NODE}/api/json")
        return found

    def labels(self) -> set[str]:
        return {label["name"] for label in self.home()["assignedLabels"]} - {NODE}

    def guests(self) -> list[str]:
        return [name for name in self.borrower.nodes() if name.startswith("loan-")]

    def guest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.borrower.get_json(f"computer/{name}/api/json")
        return found

    def loans(self) -> list[dict[str, Any]]:
        ended = self.run("--json")
        assert ended.returncode == 0, ended.stderr
        rows: list[dict[str, Any]] = json.loads(ended.stdout)["loans"]
        return rows

    def journal(self) -> list[str]:
        file = self.root / "journal"
        return file.read_text().split() if file.exists() else []

    def marked(self, name: str) -> list[str]:
        return [cmd for cmd, environ in processes() if f"JENKINS_PROVISIONER_LOAN={name}" in environ]

    def nothing_left(self, name: str) -> None:
        assert self.guests() == []
        assert self.marked(name) == []
        assert not (self.root / "loans").exists()

    def until(self, true: Callable[[], object], what: str, *, within_s: float = 120.0) -> None:
        deadline = time.monotonic() + within_s
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"never so within {within_s:.0f} s: {what}\n{self.home()}")
            time.sleep(0.2)

    def end(self) -> None:
        (self.root / "stay").unlink(missing_ok=True)
        for row in self.loans():
            self.run(row["node"], "--return", "--now")
        self.agents.end()
        self.lender.request("POST", f"computer/{NODE}/doDelete")
        for job in (JOB, "at-home"):
            self.lender.delete_job(job)
        for job in ("away", "away-pipeline"):
            self.borrower.delete_job(job)


@pytest.fixture
def pair(real_jenkins: Any, borrower: Any, jenkins_tools: Any, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(real_jenkins, borrower, jenkins_tools, tmp_path)
    yield made
    made.end()


def test_a_node_is_lent_builds_there_comes_back_is_cleaned_and_builds_here(
    pair: Pair, record_property: Callable[[str, object], None]
) -> None:
    began = [time.monotonic()]
    name = pair.lend("--for", "1h", "--reason", "a release")
    began.append(time.monotonic())
    assert len(pair.marked(name)) == 1
    assert pair.home()["offlineCauseReason"].startswith("[provisioner loan] lent to other until 20")
    assert "dirty" in pair.labels()

    secret = pair.secret(pair.borrower, name)
    seen = "".join(cmd + environ for cmd, environ in processes())
    assert secret not in seen
    for home in (pair.lender.home, pair.borrower.home):
        for file in home.rglob("*"):
            if file.suffix in {".xml", ".log", ""} and file.is_file() and "plugins" not in file.parts:
                assert secret.encode() not in file.read_bytes(), file
    (kept,) = [f for f in (pair.root / "loans").rglob("secret") if f.is_file()]
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == (secret, 0o600)

    pair.borrower.queue_build("away")
    assert pair.borrower.wait_build("away")["builtOn"] == name
    pair.borrower.queue_build("away-pipeline")
    assert pair.borrower.wait_build("away-pipeline")["result"] == "SUCCESS"
    assert pair.journal() == ["away", "away"]

    began.append(time.monotonic())
    ended = pair.run(NODE, "--return")
    began.append(time.monotonic())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == f"{NODE} is back at main, clean"
    assert pair.journal() == ["away", "away", "cleaned"]
    pair.nothing_left(name)
    pair.lender.queue_build("at-home")
    assert pair.lender.wait_build("at-home")["builtOn"] == NODE
    assert pair.journal() == ["away", "away", "cleaned", "home"]
    record_property("lent_s", round(began[1] - began[0], 1))
    record_property("returned_and_clean_s", round(began[3] - began[2], 1))
    print(f"lent in {began[1] - began[0]:.1f} s, back and clean in {began[3] - began[2]:.1f} s")


def test_a_loan_outlives_restarts_of_both_controllers_and_of_the_lender_s_agent(pair: Pair) -> None:
    """The reported cause is another then, and none at all until the agent is back; the one that counts is kept."""
    name = pair.lend()
    pair.process.kill()
    pair.process.wait()
    pair.until(lambda: not pair.home()["offlineCauseReason"].startswith("[prov"), "the cause is hidden")
    assert [row["state"] for row in pair.loans()] == ["lent"]
    pair.lender.restart()
    assert [(row["state"], row["loan"]) for row in pair.loans()] == [("lent", name)]
    pair.process = pair.agents.start(NODE, pair.secret(pair.lender, NODE))
    pair.borrower.restart()
    pair.until(lambda: not pair.guest(name)["offline"], "the borrower's agent has come back")
    pair.until(lambda: pair.home()["offlineCauseReason"].startswith("[provisioner loan]"), "the cause is there")
    assert pair.run(NODE, "--return").returncode == 0
    pair.nothing_left(name)
    assert pair.home()["offline"] is False


def test_over_ssh_with_plain_rest_and_an_ended_lease_while_the_borrower_builds(pair: Pair, tmp_path: Path) -> None:
    with SshMachine(tmp_path / "ssh") as machine:
        for controller in pair.settings["controllers"]:
            controller["bridge"] = "off"
        pair.settings["loans"]["machines"] = [
            {
                "controller": "main",
                "node": NODE,
                "ssh": f"somebody@127.0.0.1:{machine.port}",
                "key": str(machine.key_file),
                "host_key": machine.host_key,
            }
        ]
        name = pair.lend("--for", "25s")
        assert all(pair.secret(pair.borrower, name) not in command for command in machine.commands)
        (pair.root / "stay").touch()
        pair.borrower.queue_build("away")
        pair.until(lambda: pair.journal() == ["away"], "it builds there")
        pair.until(lambda: pair.run("--once") and pair.guest(name)["temporarilyOffline"], "the lease is over")
        time.sleep(2)
        assert pair.borrower.build("away")["building"]
        (pair.root / "stay").unlink()
        assert pair.borrower.wait_build("away")["result"] == "SUCCESS"
        pair.until(lambda: pair.run("--once") and pair.guests() == [], "it is back")
        pair.nothing_left(name)
        assert pair.home()["offline"] is False
        assert "dirty" in pair.labels()


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [1.5, 2.5, 3.5])
def test_a_command_that_is_killed_at_any_time_is_taken_up(pair: Pair, delay_s: float) -> None:
    def kill(*options: str) -> None:
        killed = subprocess.Popen(pair.command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay_s)
        killed.kill()
        killed.wait()

    kill(NODE, "--to", "other", "--labels", "gpu")
    pair.until(lambda: pair.run("--once") and [r["state"] for r in pair.loans()] in ([], ["lent"]), "it went on")
    if not pair.loans():
        pair.lend()  # killed before it had begun
    assert len(pair.guests()) == 1
    kill(NODE, "--return")
    pair.until(lambda: pair.run("--once") and [r["state"] for r in pair.loans()] in ([], ["lent"]), "it went on")
    for row in pair.loans():
        assert pair.run(row["node"], "--return").returncode == 0
    assert pair.home()["offline"] is False
    assert pair.guests() == []
    assert not (pair.root / "loans").exists()
