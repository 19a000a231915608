"""The dirty/clean scheduler on a real controller, with six real agents."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from controller import RealController, freestyle_xml

from tests.jenkins.cleanup_plant import JOB, CleanupProcess, Plant
from tests.jenkins.cutting_proxy import CuttingProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # on a loaded machine Jenkins may take its time

NAMES = ("c1", "c2", "c3", "c4", "c5", "c6")


@pytest.fixture(scope="module")
def plant(real_jenkins: RealController, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(real_jenkins, tmp_path_factory.mktemp("cleaned"), NAMES)
    yield made
    made.remove()


@pytest.fixture
def settled(plant: Plant, tmp_path: Path) -> Plant:
    """All nodes clean, nothing queued, whatever the test before left."""
    for item in plant.jenkins.queue_items():
        plant.jenkins.cancel(item["id"])
    for name in NAMES:
        plant.mend_all(name)
        if plant.computer(name)["temporarilyOffline"]:
            plant.jenkins.request("POST", f"computer/{name}/toggleOffline")
    ended = CleanupProcess(plant, tmp_path, "settle", at_once=6).run("--once")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    plant.begin()
    return plant


def test_the_life_of_nodes_through_use_failure_quarantine_and_recovery(
    plant: Plant, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
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
    builds, cleanings, *_ = plant.check()
    told = f"life of six nodes: {builds} builds, {cleanings} good cleanings, one node quarantined and recovered"
    record_property("figures", told)
    print(told)
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


def test_what_makes_a_clean_node_dirty_is_for_the_policy_to_say(settled: Plant, tmp_path: Path) -> None:
    """Its age, what the node monitor finds free on its disk, a number of builds."""
    jenkins = settled.jenkins
    old = CleanupProcess(settled, tmp_path, "old", after={"age": 1}).table("--dry-run")
    assert {row["act"] for row in old.values()} == {"mark-dirty"}
    assert all("it was cleaned" in row["reason"] for row in old.values())

    low = CleanupProcess(settled, tmp_path, "low", after={"disk_below": 10**15})
    jenkins.request("POST", "computer/updateNow")
    settled.until(lambda: {r["act"] for r in low.table("--dry-run").values()} == {"mark-dirty"}, "all disks are low")
    assert all("free on its disk" in row["reason"] for row in low.table("--dry-run").values())

    xml = freestyle_xml(settled.step("B", 3), label="clean&&last-c3", parameters={"N": ""})
    jenkins.create_job("quick-c3", xml)
    third = CleanupProcess(settled, tmp_path, "third", after={"builds": 3}, skip=[n for n in NAMES if n != "c3"])
    seen = []
    for number in range(3):
        assert third.run("--once").returncode == 0
        jenkins.queue_build("quick-c3", {"N": str(number)})
        settled.until(
            lambda: not jenkins.queue_items() and jenkins.get_json("computer/c3/api/json?tree=idle")["idle"], "idle"
        )
        seen.append(third.table("--dry-run")["c3"])
    assert [row["act"] for row in seen] == ["note", "note", "mark-dirty"], seen
    assert "used by 2 of 3 builds" in seen[1]["reason"]
    assert CleanupProcess(settled, tmp_path, "all", at_once=6).run("--once").returncode == 0
    jenkins.delete_job("quick-c3")


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
        ("auto", 600),
        ("off", 600),
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
    builds, cleanings, slipped, unseen = settled.check(window=bridge == "off")
    told = f"two schedulers, bridge {bridge}, {lasts_s:.0f} s: {builds} builds, {cleanings} good cleanings, "
    told += f"{slipped} builds in the window of plain REST, {unseen} nodes whose last build was missed"
    record_property("figures", told)
    print(told)
    # one cleaning for each build, whoever asked for it
    ran = settled.jenkins.get_json(f"job/{JOB}/api/json?tree=allBuilds[result,description]")["allBuilds"]
    assert not [b for b in ran if "void" in (b["description"] or "")]
    assert builds > 8
    assert cleanings >= builds - slipped - unseen
    assert bridge == "off" or not unseen
    assert all(cleanup.log() for cleanup in both)


def test_a_scheduler_killed_at_any_moment_leaves_what_the_next_one_takes_up(
    settled: Plant, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
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
    builds, cleanings, *_ = settled.check()
    told = f"kill -9 at random: {kills} kills, {builds} builds, {cleanings} good cleanings"
    record_property("figures", told)
    print(told)
    assert kills > 10


#: Each step that changes something, and what makes a scheduler take it.
STEPS = {
    "auto": ("watch", "describe", "dirty", "start", "clean", "hold", "stop"),
    "off": ("describe", "dirty", "start", "clean", "hold", "stop"),
}


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_a_scheduler_killed_in_the_middle_of_each_step_does_no_harm(
    settled: Plant, tmp_path: Path, bridge: str, record_property: Callable[[str, object], None]
) -> None:
    """Right before a request reaches the controller, and right after, when its answer is lost."""
    proxy = CuttingProxy(settled.jenkins.url)
    kills = []
    try:
        for step in STEPS[bridge]:
            for side in ("before", "after"):
                _cut(settled, tmp_path / f"{step}-{side}", proxy, step, side, bridge)
                kills.append(f"{step}/{side}")
    finally:
        proxy.close()
    builds, cleanings, slipped, _ = settled.check(window=bridge == "off")
    told = f"kill -9 in the middle of each step, bridge {bridge}: {len(kills)} kills ({', '.join(kills)}), "
    told += f"{builds} builds, {cleanings} good cleanings, {slipped} builds in the window of plain REST"
    record_property("figures", told)
    print(told)


def _cut(plant: Plant, folder: Path, proxy: CuttingProxy, step: str, side: str, bridge: str) -> None:
    folder.mkdir()
    more: dict[str, Any] = {"skip": [name for name in NAMES if name not in {"c1", "c2"}]}
    if step == "hold":
        plant.spoil("c1", "broken")
        more["retries"] = 0
    if step == "stop":
        plant.spoil("c1", "hang")
        more["dirty_timeout"] = 15
    doomed = CleanupProcess(plant, folder, "doomed", bridge=bridge, url=proxy.url, **more)
    proxy.arm(step, side, doomed.kill)
    doomed.start()
    try:
        # by plain REST a build is seen only while it runs: it begins when somebody looks, and ends when it was seen
        plant.until(proxy.looked.is_set, "it looks")
        plant.spoil("c1", "stay")
        plant.jenkins.queue_build("work-c1", {"N": f"{step}-{side}"})
        plant.until(lambda: proxy.cut.is_set() or not plant.is_clean("c1"), "its use is seen")
        plant.mend("c1", "stay")
        plant.until(proxy.cut.is_set, f"it is killed {side} the step {step}; it took {proxy.seen[-9:]}", within_s=120)
    finally:
        doomed.kill()
    next_one = CleanupProcess(plant, folder, "next", bridge=bridge, **more)
    if step in {"hold", "stop"}:
        if step == "hold":
            assert next_one.run("--once").returncode == 1
            assert plant.computer("c1")["offlineCauseReason"].startswith("[provisioner] quarantine: ")
        plant.mend("c1", "broken" if step == "hold" else "hang")
        if step == "hold":
            assert next_one.run("--recover", "c1").returncode == 0
    next_one.start()
    try:
        plant.until(plant.all_done, "every build has run")
        plant.until(lambda: plant.is_clean("c1") and plant.is_clean("c2"), "both are clean again")
    finally:
        next_one.kill()


def test_a_persons_edits_survive_and_an_old_form_makes_no_node_clean(
    settled: Plant, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
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
            jenkins.queue_build("work-c2", {})
            settled.until(lambda: "clean" not in settled.label_string("c2").split(), "c2 is dirty", within_s=30)
            settled.until(lambda: "clean" in settled.label_string("c2").split(), "c2 is clean", within_s=60)
    finally:
        stop.set()
        editing.join()
    found = settled.label_string("c2").split()
    assert [label for label in found if label.startswith("edit-")] == edits
    assert len(edits) > 20
    told = f"a person's edits of a node while it is made dirty, cleaned and made clean 3 times: {len(edits)}, all kept"
    record_property("figures", told)
    print(told)

    # dirty again, and then a form is saved that was opened when it was clean
    jenkins.queue_build("work-c2", {})
    settled.until(lambda: "dirty" in settled.label_string("c2").split(), "c2 is dirty", within_s=30)
    settled.save_form("c2", f"'{form}'.replace('&quot;', '\"')")
    settled.until(lambda: "dirty" in settled.label_string("c2").split(), "the old form is not believed", within_s=20)
    settled.until(settled.all_done, "every build has run")
    settled.until(lambda: settled.is_clean("c2"), "c2 is clean again")
    cleanup.kill()
    settled.check()
