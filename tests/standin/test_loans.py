"""Loans between two stand-ins, whose lent machine is this one, reached over SSH."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.seen_processes import processes
from tests.sidecar_process import SidecarProcess
from tests.standin.loan_estate import NODE, Estate
from tests.standin_process import ask, eventually, secret_of


def test_a_node_is_lent_serves_there_comes_back_and_is_cleaned_before_it_serves_here(estate: Estate) -> None:
    name = estate.lend("--for", "1h", "--reason", "a release")
    assert re.fullmatch(r"loan-static-1-[a-z2-7]{13}", name)
    cause = estate.home()["offlineCauseReason"]
    assert cause.startswith("[provisioner loan] lent to other until 20")
    assert "(a release)" in cause
    assert {label["name"] for label in estate.guest(name)["assignedLabels"]} == {"gpu", "big", name}
    assert "static-1 of main" in estate.guest(name)["description"]
    assert "dirty" in estate.home_labels()
    assert [(r["node"], r["lender"], r["to"], r["state"], r["loan"]) for r in estate.loans()] == [
        (NODE, "main", "other", "lent", name)
    ]
    estate.build(estate.borrower, "away")
    assert estate.journal() == ["away"]

    ended = estate.run(NODE, "--return")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == f"{NODE} is back at main, clean"
    assert estate.journal() == ["away", "cleaned"]
    estate.nothing_left(name)
    assert estate.home()["offline"] is False
    assert estate.home_labels() == {"linux", "cleanable", "clean"}
    estate.build(estate.lender, "at-home")
    assert estate.journal() == ["away", "cleaned", "home"]
    assert estate.run().stdout == "nothing is lent\n"


def test_the_secret_is_in_one_file_of_the_owner_alone_and_nowhere_else(estate: Estate) -> None:
    estate.machine.commands.clear()
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for cmd, environ in processes():
                seen.update(re.findall(r"[0-9a-f]{64}", cmd + environ))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ended = estate.run(NODE, "--to", "other", "--labels", "gpu")
    finally:
        done.set()
        watcher.join()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (name,) = estate.guests()
    secret = secret_of(estate.borrower, name)
    assert secret not in seen
    told = [ended.stdout, ended.stderr, *estate.machine.commands]
    told += [ask(estate.lender, "GET", f"computer/{NODE}/config.xml").text]
    told += [ask(estate.borrower, "GET", f"computer/{name}/config.xml").text, json.dumps(estate.home())]
    assert all(secret not in text for text in told)
    files = [f for f in estate.loans_folder.rglob("*") if f.is_file()]
    holding = [f for f in files if secret.encode() in f.read_bytes()]
    assert [f.name for f in holding] == ["secret"]
    assert holding[0].stat().st_mode & 0o777 == 0o600
    assert holding[0].parent.stat().st_mode & 0o777 == 0o700
    assert len(estate.processes(name)) == 1


def test_running_builds_are_waited_for_or_the_loan_is_refused(estate: Estate) -> None:
    estate.build(estate.lender, "long", wait=False)
    eventually(lambda: estate.running(estate.lender, "long"), "it runs")
    refused = estate.run(NODE, "--to", "other", "--no-wait")
    assert refused.returncode == 1
    assert "static-1 runs http" in refused.stderr
    assert estate.home()["temporarilyOffline"] is False

    lending = estate.start(NODE, "--to", "other", "--labels", "gpu")
    eventually(lambda: estate.home()["temporarilyOffline"], "it takes no new build")
    time.sleep(2)
    assert estate.guests() == []
    (estate.root / "go").touch()
    output = lending.communicate(timeout=30)[0]
    assert lending.returncode == 0, output
    (estate.root / "go").unlink()

    (name,) = estate.guests()
    estate.build(estate.borrower, "long", wait=False)
    eventually(lambda: estate.running(estate.borrower, "long"), "it runs there")
    refused = estate.run(NODE, "--return", "--no-wait")
    assert refused.returncode == 1
    assert "runs on it at other; nothing was changed" in refused.stderr
    assert estate.guest(name)["temporarilyOffline"] is False
    returning = estate.start(NODE, "--return")
    eventually(lambda: estate.guest(name)["temporarilyOffline"], "it takes no new build there")
    time.sleep(2)
    assert estate.running(estate.borrower, "long")
    (estate.root / "go").touch()
    output = returning.communicate(timeout=40)[0]
    assert returning.returncode == 0, output
    assert estate.result(estate.borrower, "long") == "SUCCESS"
    estate.nothing_left(name)


@pytest.mark.slow
def test_two_commands_at_once_make_one_loan(estate: Estate) -> None:
    commands = [estate.start(NODE, "--to", "other", "--labels", "gpu") for _ in range(2)]
    outputs = [command.communicate(timeout=60)[0] for command in commands]
    assert 0 in {command.returncode for command in commands}, outputs
    (name,) = estate.guests()
    assert len(estate.processes(name)) == 1
    commands = [estate.start(NODE, "--return") for _ in range(2)]
    outputs = [command.communicate(timeout=60)[0] for command in commands]
    assert 0 in {command.returncode for command in commands}, outputs
    estate.nothing_left(name)
    assert estate.home()["offline"] is False
    assert "clean" in estate.home_labels()


@pytest.mark.parametrize("killed_after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2, 3))])
def test_a_loan_that_was_killed_at_a_step_goes_on(estate: Estate, killed_after: int) -> None:
    """`kill -9` after so many lines of what it did, or as soon as the node is out of service."""
    _kill_after(
        estate.start(NODE, "--to", "other", "--labels", "gpu"),
        killed_after,
        first=lambda: estate.home()["temporarilyOffline"],
    )
    eventually(lambda: estate.run("--once").returncode == 0 and _lent(estate), "it is lent", within_s=60)
    (name,) = estate.guests()
    estate.build(estate.borrower, "away")
    assert len(estate.processes(name)) == 1

    _kill_after(estate.start(NODE, "--return"), killed_after, first=lambda: "state=returning" in _cause(estate))
    eventually(lambda: estate.run("--once").returncode == 0 and estate.guests() == [], "it is back", within_s=60)
    eventually(lambda: estate.home()["offline"] is False, "it is in service")
    estate.nothing_left(name)
    assert {"dirty", "clean"} & estate.home_labels()


def _kill_after(process: subprocess.Popen[str], lines: int, *, first: Callable[[], object]) -> None:
    assert process.stdout is not None
    if lines == 0:
        while not first() and process.poll() is None:
            time.sleep(0.01)
    for _ in range(lines):
        process.stdout.readline()
    process.kill()
    process.wait(10)
    process.stdout.close()


def _cause(estate: Estate) -> str:
    return str(estate.home()["offlineCauseReason"])


def _lent(estate: Estate) -> bool:
    return [row["state"] for row in estate.loans()] == ["lent"]


def test_a_forgotten_loan_comes_back_by_its_lease_also_after_a_restart_of_the_sidecar(
    estate: Estate, tmp_path: Path
) -> None:
    lent = time.monotonic()
    name = estate.lend("--for", "14s")
    folder = tmp_path / "sidecar"
    folder.mkdir()
    sidecar = SidecarProcess(folder, estate.settings, token="unused")
    sidecar.start(ready=False)
    try:
        eventually(lambda: "loans" in json.loads(sidecar.get("/healthz")[1])["loops"], "its loop is at work")
        sidecar.kill()
        assert estate.guests() == [name] or time.monotonic() > lent + 14
        sidecar.start(ready=False)
        eventually(lambda: "clean" in estate.home_labels(), "it is back and clean", within_s=60)
        assert estate.home()["offline"] is False
        estate.nothing_left(name)
    finally:
        sidecar.stop()


@pytest.mark.slow
def test_the_machine_is_left_clean_although_the_borrower_is_gone_and_its_node_goes_when_it_is_back(
    estate: Estate,
) -> None:
    name = estate.lend()
    estate.settings["loans"]["absent_after"] = 2
    ask(estate.borrower, "POST", "standin/knobs", body=json.dumps({}))
    url = estate.settings["controllers"][1]["url"]
    estate.settings["controllers"][1]["url"] = "http://127.0.0.1:9/"
    estate.settings["loans"]["grace"] = 0
    eventually(lambda: estate.run("--once") and estate.home()["temporarilyOffline"] is False, "it is back", within_s=60)
    assert estate.processes(name) == []
    assert not estate.loans_folder.exists()
    assert estate.guests() == [name]
    estate.settings["controllers"][1]["url"] = url
    eventually(lambda: estate.run("--once") and estate.guests() == [], "its node is gone", within_s=30)


@pytest.mark.slow
def test_an_agent_that_died_is_started_again_and_a_person_s_changes_end_the_loan(estate: Estate) -> None:
    name = estate.lend()
    (pid,) = [int(f.name) for f in Path("/proc").iterdir() if f.name.isdigit() and _marked(f, name)]
    os.kill(pid, 9)
    eventually(lambda: estate.guest(name)["offline"], "it is gone")
    assert estate.run("--once").returncode == 0
    eventually(lambda: not estate.guest(name)["offline"], "it is there again")

    # somebody brings it back by hand at the lender, who then knows of no loan
    ask(estate.lender, "POST", f"computer/{NODE}/toggleOffline")
    assert [row["state"] for row in estate.loans()] == ["forgotten"]
    assert estate.run("--once").returncode == 0
    estate.nothing_left(name)

    # somebody removes it by hand at the borrower
    name = estate.lend()
    ask(estate.borrower, "POST", f"computer/{name}/doDelete")
    assert estate.run("--once").returncode == 0
    estate.nothing_left(name)
    assert estate.home()["temporarilyOffline"] is False


@pytest.mark.slow
def test_a_machine_over_ssh_is_left_clean_although_its_node_was_deleted_at_the_lender(estate: Estate) -> None:
    name = estate.lend()
    assert ask(estate.lender, "POST", f"computer/{NODE}/doDelete").status == 302
    assert [row["state"] for row in estate.loans()] == ["forgotten"]
    ended = estate.run("--once")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    estate.nothing_left(name)


def _marked(folder: Path, name: str) -> bool:
    try:
        return f"JENKINS_PROVISIONER_LOAN={name}".encode() in (folder / "environ").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
def test_what_cannot_be_lent_is_refused_with_the_reason_and_nothing_is_changed(estate: Estate) -> None:
    for options, why in (
        (("nobody", "--to", "other"), "no node nobody is at main"),
        ((NODE, "--return"), "static-1 is not lent"),
        (("nobody",), "no node nobody is at main or other"),
        ((NODE, "--to", "main"), "static-1 is a node of main itself"),
        ((NODE, "--from", "main", "--to", "main"), "static-1 is a node of main itself"),
    ):
        ended = estate.run(*options)
        assert ended.returncode == 1, options
        assert why in ended.stderr
    assert estate.run(NODE).stdout == "static-1 is not lent\n"
    ask(estate.lender, "POST", f"computer/{NODE}/toggleOffline?offlineMessage=mine")
    ended = estate.run(NODE, "--to", "other")
    assert "static-1 was taken offline by somebody (mine)" in ended.stderr
    ask(estate.lender, "POST", f"computer/{NODE}/toggleOffline")
    reserved = "linux cleanable clean jenkins-provisioner.reserved=W10"
    path = f"computer/{NODE}/config.xml"
    before = ask(estate.lender, "GET", path).text
    after = before.replace("linux cleanable", reserved)
    assert ask(estate.lender, "POST", path, body=after, headers={"Content-Type": "text/xml"}).status == 200
    ended = estate.run(NODE, "--to", "other")
    assert "static-1 is reserved for a build that is about to begin; try again when it has" in ended.stderr
    assert ask(estate.lender, "POST", path, body=before, headers={"Content-Type": "text/xml"}).status == 200
    (machine,) = estate.settings["loans"]["machines"]
    for key, value, why in (
        ("java", "/nowhere/java", "static-1 cannot be lent: on its machine: there is no Java executable /nowhere/java"),
        ("host_key", estate.machine.other_host_key, "shows another host key than `loans.machines` has for it"),
        ("ssh", "somebody@127.0.0.1:9", "static-1 cannot be lent: somebody@127.0.0.1:9 cannot be used"),
    ):
        right, machine[key] = machine[key], value
        ended = estate.run(NODE, "--to", "other")
        machine[key] = right
        assert ended.returncode == 1
        assert why in ended.stderr
        assert estate.home()["temporarilyOffline"] is False
    del estate.settings["loans"]["machines"]
    ended = estate.run(NODE, "--to", "other")
    assert "nothing can be started on the machine of static-1: add it to `loans.machines`" in ended.stderr
