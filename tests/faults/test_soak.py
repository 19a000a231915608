"""Days of work with faults at random: nothing grows. `SOAK_BUILDS` and `SOAK_SEED` choose how much and which."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from provisioner.controller.port import BridgeMode
from provisioner.model.queue import ItemKind
from tests.faults.estate import Estate


def sizes(estate: Estate) -> dict[str, int]:
    """Everything in a sidecar that could grow with the builds it has served."""
    desk, book = estate.desk, estate.desk.book
    found = {
        "agents": len(desk.agents),
        "by request": len(desk.by_request),
        "errands": len(desk._errands),
        "requests": len(book),
        "unserved": len(book.unserved),
        "stored": len(book._stored),
        "remembered": len(book._remembered),
        "threads": threading.active_count(),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }
    found["records"] = estate.store._db.execute("SELECT count(*) FROM agents").fetchone()[0]
    return found


def misfortune(estate: Estate, chance: random.Random) -> None:
    """One thing goes wrong, or is mended."""
    jenkins, engine = estate.jenkins, chance.choice([estate.box, estate.den])
    match chance.randrange(9):
        case 0:
            jenkins.outage()
            estate.pass_s(chance.choice([1, 20]))
            jenkins.recover()
        case 1:
            jenkins.restart(crash=chance.random() < 0.3)
        case 2:
            engine.outage()
            estate.pass_s(chance.choice([1, 30]))
            engine.recover()
        case 3 if engine.instances:
            name = chance.choice(sorted(engine.instances))
            jenkins.excuse(name)
            engine.end(name, exit_code=1)
        case 4 if jenkins.nodes:
            jenkins.delete_node(chance.choice(sorted(jenkins.nodes)))
        case 5:
            jenkins.mute = True
            estate.pass_s(10)
            jenkins.mute = False
        case 6:
            for work in list(jenkins.items.values())[:2]:
                jenkins.cancel(work)
        case 7:
            estate.kill()
            estate.pass_s(chance.choice([1, 15]))
            estate.start()
        case _:
            for seen in jenkins.history[-3:]:
                jenkins.repeat(seen)


def soak(estate: Estate, builds: int, chance: random.Random) -> None:
    target = len(estate.jenkins.works) + builds
    while len(estate.jenkins.works) < target:
        for _ in range(chance.randint(1, 6)):
            kind = chance.choice([ItemKind.FREESTYLE, ItemKind.PIPELINE])
            estate.jenkins.queue(chance.choice(["maven", "maven", "node"]), kind, chance.choice([0.5, 3.0, 12.0]))
        estate.pass_s(chance.choice([1, 3, 8]))
        if chance.random() < 0.15:
            misfortune(estate, chance)
        if len(estate.jenkins.items) > 40:
            estate.until(lambda: len(estate.jenkins.items) < 10, "the queue is served")
    estate.finish()
    estate.jenkins.works.clear()  # what a test remembers is not what is measured
    estate.jenkins.history.clear()
    estate.jenkins.registered.clear()
    estate.jenkins.told.clear()
    for engine in estate.engines.values():
        engine.stopped.clear()
        engine.launches.clear()


def run(folder: Path, builds: int, seed: int, mode: BridgeMode) -> None:
    print(f"SOAK_BUILDS={builds} SOAK_SEED={seed}")
    chance = random.Random(seed)
    with Estate(folder, mode=mode) as estate:
        estate.start()
        soak(estate, builds // 4, chance)
        early = sizes(estate)
        for _ in range(3):
            soak(estate, builds // 4, chance)
        late = sizes(estate)
        size = estate.settings.state_file.stat().st_size
    kept = {"records"}  # a day's worth of history, at most 5000
    assert {k: v for k, v in late.items() if k not in kept} == {k: v for k, v in early.items() if k not in kept}
    assert late["records"] <= 5000 + 200
    assert size < 60_000_000


@pytest.mark.parametrize("mode", [BridgeMode.SCRIPT, BridgeMode.OFF])
def test_two_hundred_builds_with_faults_leave_no_trace(tmp_path: Path, mode: BridgeMode) -> None:
    run(tmp_path, 200, 7, mode)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", [BridgeMode.SCRIPT, BridgeMode.OFF])
def test_twenty_thousand_builds_with_faults_leave_no_trace(tmp_path: Path, mode: BridgeMode) -> None:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
    run(tmp_path, int(os.environ.get("SOAK_BUILDS", "20000")), seed, mode)
