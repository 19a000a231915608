"""The closing table tells of every test; a tier that had to run and did not is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks, tiers
from tests.tiers import Result

ROOT = Path(__file__).parents[3]
PROBE = """
import pytest

def test_good(): pass

def test_bad(dump_on_failure):
    dump_on_failure += [state_of_the_world, broken]
    assert 1 == 2

def state_of_the_world(): return "dumped: 42"
def broken(): raise RuntimeError("no answer")

@pytest.fixture
def dirty():
    yield
    raise ValueError("teardown")

def test_ends_badly(dirty): pass

@pytest.mark.standin
def test_left_out(): pytest.skip("not today")

@pytest.mark.docker
@pytest.mark.standin
def test_engine(): pass
"""


def plain(name: str, why: str | None) -> tiers.Tier:
    return tiers.Tier(name=name, lacks=lambda: why)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with everything but a Docker engine."""
    made = plain("unit", None), plain("standin", None), plain("docker", "no engine at X"), plain("jenkins", None)
    monkeypatch.setattr(tiers, "TIERS", made)


def results(*pairs: tuple[str, str]) -> list[Result]:
    return [
        Result(tier=tier, outcome=outcome, reason="a reason" if outcome == "skipped" else "") for tier, outcome in pairs
    ]


@pytest.mark.usefixtures("machine")
def test_the_table_counts_and_gives_reasons() -> None:
    lines = tiers.table(results(("unit", "passed"), ("unit", "failed"), ("jenkins", "skipped"), ("jenkins", "skipped")))
    assert [line.split() for line in lines[1:]] == [
        ["unit", "2", "1", "1", "0"],
        ["standin", "0", "0", "0", "0", *["no", "test", "of", "it", "was", "selected"]],
        ["docker", "0", "0", "0", "0", *["no", "engine", "at", "X"]],
        ["jenkins", "2", "0", "0", "2", "2", "x", "a", "reason"],
    ]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("required", "ran", "missing"),
    [
        ("available", ["unit", "standin", "jenkins"], []),
        ("available", ["unit", "standin"], ["jenkins"]),
        ("unit docker", ["unit"], ["docker"]),
        ("unit,standin", ["unit", "standin"], []),
        ("", [], []),
    ],
)
def test_a_required_tier_that_did_not_run_is_told(required: str, ran: list[str], missing: list[str]) -> None:
    told = tiers.not_run(required, results(*((name, "passed") for name in ran), ("jenkins", "skipped")))
    assert [line.split()[2] for line in told] == missing


@pytest.mark.usefixtures("machine")
def test_a_failing_test_has_run() -> None:
    assert tiers.not_run("unit", results(("unit", "failed"))) == []


@pytest.mark.usefixtures("machine")
def test_an_unknown_tier_is_refused() -> None:
    assert tiers.not_run("available dokcer", []) == ["REQUIRE_TIERS names no tier: dokcer"]


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "parallel"])
def test_a_run_reports_every_test_once(tmp_path: Path, workers: list[str]) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(PROBE)
    report = tmp_path / "report.json"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--confcutdir", tmp_path,
         "-p", "no:cacheprovider", "-p", "tests.conftest", "-p", "tests.tiers", *workers,
         f"--tier-report={report}", probe],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere.sock"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    by_name = {test.rpartition("::")[2]: result for test, result in tiers.read_report(report).items()}
    assert {name: (result.tier, result.outcome) for name, result in by_name.items()} == {
        "test_good": ("unit", "passed"),
        "test_bad": ("unit", "failed"),
        "test_ends_badly": ("unit", "failed"),
        "test_left_out": ("standin", "skipped"),
        "test_engine": ("docker", "skipped"),
    }, ran.stdout
    assert by_name["test_left_out"].reason == "not today"
    assert by_name["test_engine"].reason == "no Docker engine at unix:///nowhere.sock: No such file or directory"
    assert "state_of_the_world after call" in ran.stdout
    assert "dumped: 42" in ran.stdout
    assert "could not be told: RuntimeError('no answer')" in ran.stdout


def child(**env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", "echo ready; read line"], env=env, stdin=-1, stdout=-1)  # fmt: skip


@pytest.mark.parametrize(
    ("mark", "counts"),
    [
        ({"JENKINS_PROVISIONER_TEST": "run-00000001"}, True),
        ({"JENKINS_PROVISIONER_OWNER": "test-run-00000001-ab"}, True),
        ({"JENKINS_PROVISIONER_OWNER": "somebody"}, True),
        ({"JENKINS_PROVISIONER_TEST": "run-00000002", "JENKINS_PROVISIONER_OWNER": "somebody"}, False),
        ({"JENKINS_PROVISIONER_OWNER": "test-run-00000002-ab"}, False),
        ({}, False),
    ],
)
def test_a_process_with_a_mark_of_this_run_or_of_none_is_a_leak(
    mark: dict[str, str], counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHARED_MACHINE", raising=False)
    with child(**mark) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = [line for line in leaks.marked("run-00000001") if line.startswith(f"process {process.pid}:")]
        process.communicate(b"\n")
    assert bool(found) == counts


def test_on_a_shared_machine_only_the_runs_own_marks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARED_MACHINE", "1")
    with child(JENKINS_PROVISIONER_OWNER="somebody") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not any(line.startswith(f"process {process.pid}:") for line in leaks.marked("run-00000001"))
        process.communicate(b"\n")


def test_owners_of_a_run_carry_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leaks.RUN_VARIABLE, "run-00000001")
    assert leaks.new_owner().startswith("test-run-00000001-")
    assert leaks.new_owner() != leaks.new_owner()


@pytest.mark.parametrize(
    ("failed", "repeated"),
    [
        ({}, []),
        ({"a": "jenkins"}, ["a"]),
        ({"a": "jenkins", "b": "jenkins"}, ["a", "b"]),
        ({"a": "jenkins", "b": "jenkins", "c": "jenkins"}, []),
        ({"a": "jenkins", "b": "docker"}, ["a", "b"]),
        ({"a": "jenkins", "b": "standin"}, []),
        ({"a": "unit"}, []),
    ],
)
def test_an_accident_beside_a_real_engine_or_controller_is_tried_once_more(
    failed: dict[str, str], repeated: list[str]
) -> None:
    passed = {"x": Result(tier="jenkins", outcome="passed"), "y": Result(tier="unit", outcome="passed")}
    assert (
        tiers.to_repeat(passed | {test: Result(tier=tier, outcome="failed") for test, tier in failed.items()})
        == repeated
    )
