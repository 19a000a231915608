"""Loans between two real controllers; the lent machine is reached by its agent's script console, or over SSH."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from controller import RealController, freestyle_xml, pipeline_xml

from tests.jenkins.bridge_rig import Agents
from tests.loan_pair import CLEANING, LoanPair
from tests.seen_processes import processes
from tests.ssh_machine import SshMachine
from tests.standin_process import secret_of

NODE = "lent-1"
_CLEAN = "node(params.NODE) { sh 'echo cleaned >> ../../journal' }"


@pytest.fixture(scope="module")
def borrower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealController]:
    controller = RealController(tmp_path_factory.mktemp("borrower-home"))
    controller.start()
    yield controller
    controller.stop()


class Pair(LoanPair[RealController]):
    """The node is a folder of its agent, which is started by hand."""

    node = NODE
    patience_s = 120.0

    def __init__(self, lender: RealController, borrower: RealController, folder: Path) -> None:
        self.agents = Agents(lender, folder)
        super().__init__(lender, borrower, folder, Path(self.agents.home(NODE)))
        lender.create_job(CLEANING, pipeline_xml(_CLEAN, parameters={"NODE": ""}))
        lender.create_job("at-home", freestyle_xml("echo home >> ../../journal", label="clean"))
        away = "echo away >> ../../../../../journal; while [ -e ../../../../../stay ]; do sleep 0.2; done"
        borrower.create_job("away", freestyle_xml(away, label="gpu"))
        borrower.create_job("away-pipeline", pipeline_xml(f"node('gpu') {{ sh '{away}' }}"))
        self.add_node()
        self.process = self.agents.start(NODE, secret_of(lender, NODE))
        self.until(lambda: not self.home()["offline"], "the node is connected")
        self.settings["cleanup"]["retry_after"] = 1

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
        for job in (CLEANING, "at-home"):
            self.lender.delete_job(job)
        for job in ("away", "away-pipeline"):
            self.borrower.delete_job(job)


@pytest.fixture
def pair(real_jenkins: RealController, borrower: RealController, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(real_jenkins, borrower, tmp_path)
    yield made
    made.end()


def test_a_node_is_lent_builds_there_comes_back_is_cleaned_and_builds_here(
    pair: Pair, record_property: Callable[[str, object], None]
) -> None:
    began = [time.monotonic()]
    name = pair.lend("--for", "1h", "--reason", "a release")
    began.append(time.monotonic())
    assert len(pair.processes(name)) == 1
    assert pair.home()["offlineCauseReason"].startswith("[provisioner loan] lent to other until 20")
    assert "dirty" in pair.home_labels()

    secret = secret_of(pair.borrower, name)
    seen = "".join(cmd + environ for cmd, environ in processes())
    assert secret not in seen
    for home in (pair.lender.home, pair.borrower.home):
        for file in (Path(folder) / name for folder, _, names in os.walk(home) for name in names):
            if file.suffix in {".xml", ".log", ""} and "plugins" not in file.parts:
                with contextlib.suppress(FileNotFoundError):  # a controller at work replaces its files
                    assert secret.encode() not in file.read_bytes(), file
    (kept,) = [f for f in (pair.loans_folder).rglob("secret") if f.is_file()]
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
    pair.process = pair.agents.start(NODE, secret_of(pair.lender, NODE))
    pair.borrower.restart()
    pair.until(lambda: not pair.guest(name)["offline"], "the borrower's agent has come back")
    pair.until(lambda: pair.home()["offlineCauseReason"].startswith("[provisioner loan]"), "the cause is there")
    assert pair.run(NODE, "--return").returncode == 0
    pair.nothing_left(name)
    assert pair.home()["offline"] is False


def test_over_ssh_with_plain_rest_and_an_ended_lease_while_the_borrower_builds(pair: Pair, tmp_path: Path) -> None:
    with SshMachine(tmp_path / "ssh") as machine:
        pair.by_plain_rest()
        pair.reach_by_ssh(machine)
        name = pair.lend("--for", "25s")
        assert all(secret_of(pair.borrower, name) not in command for command in machine.commands)
        (pair.root / "stay").touch()
        pair.borrower.queue_build("away")
        pair.until(lambda: pair.journal() == ["away"], "it builds there")
        pair.until(lambda: pair.run("--once") and pair.guest(name)["temporarilyOffline"], "the lease is over")
        time.sleep(2)
        assert pair.borrower.begun("away")["building"]
        (pair.root / "stay").unlink()
        assert pair.borrower.wait_build("away")["result"] == "SUCCESS"
        pair.until(lambda: pair.run("--once") and pair.guests() == [], "it is back")
        pair.nothing_left(name)
        assert pair.home()["offline"] is False
        assert "dirty" in pair.home_labels()


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
    assert not (pair.loans_folder).exists()
