"""All of the long-lived nodes' life in one short go; test_cleanup.py takes each part of it at length."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from controller import RealController

from tests.jenkins.cleanup_plant import JOB, CleanupProcess, Plant

NAMES = ("b1", "b2", "b3")


@pytest.mark.timeout(900)  # 50 s on a machine of its own
def test_two_schedulers_a_killer_a_person_and_a_broken_node(real_jenkins: RealController, tmp_path: Path) -> None:
    """Builds that need a clean node wait all the while; the cleanup job is one that cannot choose its node."""
    plant = Plant(real_jenkins, tmp_path / "nodes", NAMES, kind="plain")
    both = [CleanupProcess(plant, tmp_path, name, retries=1) for name in ("one", "two")]
    stop = threading.Event()
    edits: list[str] = []

    def person() -> None:
        while not stop.wait(0.5):
            edits.append(f"edit-{len(edits)}")
            plant.save_form("b2", f"text + ' {edits[-1]}'")

    editing = threading.Thread(target=person)
    try:
        plant.spoil("b3", "broken")
        plant.work(6)
        for cleanup in both:
            cleanup.start()
        editing.start()
        for _ in range(3):
            time.sleep(2.5)
            both[1].kill()
            both[1].start()
        plant.until(lambda: plant.computer("b3")["temporarilyOffline"], "b3 is in quarantine")
        assert plant.computer("b3")["offlineCauseReason"].startswith("[provisioner] quarantine: 2 cleanings in a row")
        plant.mend("b3", "broken")
        assert both[0].run("--recover", "b3").returncode == 0
        plant.until(plant.all_done, "every build has run")
        stop.set()
        editing.join()
        plant.until(lambda: all("clean" in plant.label_string(n).split() for n in NAMES), "all are clean")
        kept = plant.label_string("b2").split()
        assert [label for label in kept if label.startswith("edit-")] == edits
        plant.save_form("b2", "text.replaceAll(' edit-[0-9]+', '')")
        builds, cleanings, *_ = plant.check()
        assert builds == 6
        assert cleanings >= builds
        assert edits
        ran = real_jenkins.get_json(f"job/{JOB}/api/json?tree=allBuilds[builtOn,description]")["allBuilds"]
        assert not [build for build in ran if "void" in (build["description"] or "")]  # none was one too many
        assert {build["builtOn"] for build in ran} == set(NAMES)
    finally:
        stop.set()
        for cleanup in both:
            cleanup.kill()
        plant.remove()
