"""The dirty/clean scheduler on a real controller, with six real agents."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cleanup_plant import JOB, CleanupProcess, Plant

pytestmark = pytest.mark.slow

NAMES = ("c1", "c2", "c3", "c4", "c5", "c6")


@pytest.fixture(scope="module")
def plant(real_jenkins: Any, jenkins_tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(real_jenkins, jenkins_tools, tmp_path_factory.mktemp("cleaned"), NAMES)
    yield made
    made.remove()


@pytest.fixture
def settled(plant: Plant, tmp_path: Path) -> Plant:
    """All nodes clean, nothing queued, whatever the test before left."""
    ended = CleanupProcess(plant, tmp_path, "settle", at_once=6).run("--once")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    plant.begin()
    return plant


def test_the_life_of_nodes_through_use_failure_quarantine_and_recovery(plant: Plant, tmp_path: Path) -> None:
    cleanup = CleanupProcess(plant, tmp_path, "one")
    before = {name: plant.label_string(name) for name in NAMES}
    planned = cleanup.table("--dry-run")
    assert {name: row["act"] for name, row in planned.items()} == dict.fromkeys(NAMES, "mark-dirty")
    assert before == {name: plant.label_string(name) for name in NAMES}  # nothing was changed

    plant.spoil("c3", "broken")
    plant.work(14)
    cleanup.start()
    try:
        plant.until(lambda: plant.computer("c3")["temporarilyOffline"], "c3 is in quarantine")
        plant.until(plant.all_done, "every build has run")
        reason = plant.computer("c3")["offlineCauseReason"]
        assert reason.startswith("[provisioner] quarantine: 3 cleanings in a row failed")
        assert not [line for line in plant.journal("c3") if line.startswith("B")]
        state = cleanup.table("--dry-run")["c3"]
        assert (state["state"], state["reason"]) == ("quarantined", reason)

        # a person's own offline is no business of ours
        plant.jenkins.request("POST", "computer/c4/toggleOffline?offlineMessage=new%20disk")
        refused = cleanup.run("--recover", "c4")
        assert refused.returncode == 1
        assert "c4 is not in quarantine" in refused.stderr

        plant.mend("c3", "broken")
        assert cleanup.run("--recover", "c3").returncode == 0
        plant.until(lambda: plant.is_clean("c3"), "c3 has recovered")
        assert plant.computer("c4")["offlineCauseReason"] == "new disk"
        plant.jenkins.request("POST", "computer/c4/toggleOffline")
        plant.work(8)
        plant.until(plant.all_done, "every build has run")
        plant.until(lambda: all(plant.is_clean(name) for name in NAMES), "all are clean again")
    finally:
        cleanup.kill()
    builds, cleanings, _ = plant.check()
    assert builds == 22
    assert cleanings >= builds + len(NAMES)


def test_a_build_shorter_than_a_poll_is_noticed(settled: Plant, tmp_path: Path) -> None:
    cleanup = CleanupProcess(settled, tmp_path, "short")
    settled.jenkins.queue_build("quick", {"N": "short"})
    build = settled.jenkins.wait_build("quick", "lastBuild")
    rows = cleanup.table("--dry-run")
    assert {name: row["act"] for name, row in rows.items() if row["act"] != "wait"} == {build["builtOn"]: "mark-dirty"}
    assert cleanup.run("--once").returncode == 0
    settled.check()


def test_a_cleaning_that_hangs_is_ended_and_tried_again(settled: Plant, tmp_path: Path) -> None:
    cleanup = CleanupProcess(settled, tmp_path, "hanging", dirty_timeout=8, retries=0, skip=list(NAMES[1:]))
    settled.spoil("c1", "hang")
    settled.save_form("c1", "text.replaceFirst(' clean$', '')")
    ended = cleanup.run("--once")
    assert ended.returncode == 1, ended.stdout
    assert "has run for" in ended.stdout
    assert "ended as ABORTED" in settled.computer("c1")["offlineCauseReason"]
    settled.mend("c1", "hang")
    assert cleanup.run("--recover", "c1").returncode == 0
    assert cleanup.run("--once").returncode == 0
    assert settled.is_clean("c1")
    settled.check()


def test_a_used_node_takes_no_second_build_although_no_scheduler_runs(settled: Plant, tmp_path: Path) -> None:
    """The guard: builds of a moment, twelve at once for six clean nodes, and nobody there to change a label."""
    before = {name: len(settled.journal(name)) for name in NAMES}
    for number in range(12):
        settled.jenkins.queue_build("quick", {"N": f"guarded-{number}"})
    settled.until(lambda: all(len(settled.journal(n)) > before[n] + 1 for n in NAMES), "each node was used once")

    def used() -> int:
        new = [line for name in NAMES for line in settled.journal(name)[before[name] :]]
        return sum(1 for line in new if line.startswith("B-"))

    def waiting() -> list[str]:
        return [item["why"] or "" for item in settled.jenkins.queue_items()]

    settled.until(
        lambda: all("was used since its cleaning" in why for why in waiting()), "the others say why they wait"
    )
    assert len(waiting()) == 6
    assert {name: len(settled.journal(name)) for name in NAMES} == {n: before[n] + 2 for n in NAMES}
    assert all(settled.is_clean(name) for name in NAMES)  # by the label alone
    cleanup = CleanupProcess(settled, tmp_path, "late", at_once=6)
    cleanup.start()
    try:
        settled.until(lambda: not waiting(), "the others have begun")
        settled.until(lambda: used() == 12, "the others have run")
    finally:
        cleanup.kill()
    settled.check()


@pytest.mark.parametrize(
    ("bridge", "lasts_s"),
    [
        pytest.param("auto", 600, marks=pytest.mark.timeout(1200)),
        pytest.param("off", 600, marks=pytest.mark.timeout(1200)),
    ],
)
def test_two_schedulers_at_once_clean_nothing_twice(
    settled: Plant, tmp_path: Path, bridge: str, lasts_s: float, record_property: Callable[[str, object], None]
) -> None:
    both = [CleanupProcess(settled, tmp_path, name, bridge=bridge) for name in ("one", "two")]
    for cleanup in both:
        cleanup.start()
    try:
        ends = time.monotonic() + lasts_s
        while time.monotonic() < ends:
            if len(settled.jenkins.queue_items()) < 3:
                settled.work(4)
            time.sleep(1)
        settled.until(settled.all_done, "every build has run")
        settled.until(lambda: all(settled.is_clean(name) for name in NAMES), "all are clean again")
    finally:
        for cleanup in both:
            cleanup.kill()
    # without the guard the window is one look: what comes through it is counted, and forgiven
    builds, cleanings, slipped = settled.check(window=bridge == "off")
    told = f"two schedulers, bridge {bridge}, {lasts_s:.0f} s: {builds} builds, {cleanings} good cleanings, "
    told += f"{slipped} builds in the window of plain REST"
    record_property("figures", told)
    print(told)
    # one cleaning for each build, whoever asked for it
    ran = settled.jenkins.get_json(f"job/{JOB}/api/json?tree=allBuilds[result,description]")["allBuilds"]
    assert not [b for b in ran if "void" in (b["description"] or "")]
    assert builds > 8
    assert cleanings >= builds - slipped
    assert all(cleanup.log() for cleanup in both)


def test_a_scheduler_killed_at_any_moment_leaves_what_the_next_one_takes_up(settled: Plant, tmp_path: Path) -> None:
    cleanup = CleanupProcess(settled, tmp_path, "killed")
    chance = random.Random(7)
    kills = 0
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if len(settled.jenkins.queue_items()) < 3:
            settled.work(3)
        cleanup.start()
        time.sleep(chance.uniform(0.5, 3.5))  # half a second is the start of the program
        cleanup.kill()
        kills += 1
    cleanup.start()
    try:
        settled.until(settled.all_done, "every build has run")
        settled.until(lambda: all(settled.is_clean(name) for name in NAMES), "all are clean again")
    finally:
        cleanup.kill()
    settled.check()
    assert kills > 10


def test_a_persons_edits_survive_and_an_old_form_makes_no_node_clean(settled: Plant, tmp_path: Path) -> None:
    """A saved form replaces the whole node, with the labels that it was opened with."""
    jenkins = settled.jenkins
    cleanup = CleanupProcess(settled, tmp_path, "beside", skip=[n for n in NAMES if n != "c2"])
    form = settled.label_string("c2")
    assert form.endswith(" clean")
    cleanup.start()
    stop = threading.Event()
    edits: list[str] = []

    def person() -> None:
        while not stop.wait(0.25):
            edits.append(f"edit-{len(edits)}")
            settled.save_form("c2", f"text + ' {edits[-1]}'")

    editing = threading.Thread(target=person)
    editing.start()
    try:
        for _ in range(3):  # dirty, cleaned, clean, and again, while the person goes on
            jenkins.queue_build("work-c2")
            settled.until(lambda: "clean" not in settled.label_string("c2").split(), "c2 is dirty", within_s=30)
            settled.until(lambda: "clean" in settled.label_string("c2").split(), "c2 is clean", within_s=60)
    finally:
        stop.set()
        editing.join()
    found = settled.label_string("c2").split()
    assert [label for label in found if label.startswith("edit-")] == edits
    assert len(edits) > 20

    # dirty again, and then a form is saved that was opened when it was clean
    jenkins.queue_build("work-c2")
    settled.until(lambda: "dirty" in settled.label_string("c2").split(), "c2 is dirty", within_s=30)
    settled.save_form("c2", f"'{form}'.replace('&quot;', '\"')")
    settled.until(lambda: "dirty" in settled.label_string("c2").split(), "the old form is not believed", within_s=20)
    settled.until(settled.all_done, "every build has run")
    settled.until(lambda: settled.is_clean("c2"), "c2 is clean again")
    cleanup.kill()
    settled.check()
