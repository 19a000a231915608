"""The wall clock jumps; nobody waits longer for it."""

from __future__ import annotations

from pathlib import Path

from provisioner.model.errors import LaunchError, Reason
from tests.faults.estate import Estate


def test_a_pause_after_a_failure_does_not_last_for_hours_because_the_wall_clock_was_set_back(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        for engine in estate.engines.values():
            engine.fail_with = LaunchError("the registry does not answer", reason=Reason.REGISTRY_ERROR)
        estate.jenkins.queue()
        estate.until(lambda: any(r.world_faults for r in estate.desk.book), "a launch failed")
        estate.clock.skew_s -= 7200
        for engine in estate.engines.values():
            engine.fail_with = None
        estate.finish(within_s=300)
        assert estate.outcomes() == {0: "ran"}


def test_an_agent_that_connects_after_the_clock_was_set_forth_is_not_too_late(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.jenkins.connect_s = 20
        estate.start()
        estate.jenkins.queue()
        estate.pass_s(5)
        estate.clock.skew_s += 86_400
        estate.finish(within_s=120)
        assert estate.outcomes() == {0: "ran"}
        assert len(estate.jenkins.registered) == 1
