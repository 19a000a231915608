"""Agents that misbehave come to a defined end in bounded time, and their builds with them."""

from __future__ import annotations

from pathlib import Path

from provisioner.lifecycle.deadlines import CUT_OFF_S
from provisioner.model.queue import ItemKind
from tests.faults.estate import Estate


def test_one_that_connects_late_runs_its_build(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.jenkins.connect_s = 55
        estate.start()
        estate.jenkins.queue()
        estate.finish(within_s=120)
        assert estate.outcomes() == {0: "ran"}
        assert len(estate.jenkins.registered) == 1


def test_one_that_connects_too_late_is_replaced_and_its_build_ended_with_the_reason(tmp_path: Path) -> None:
    with Estate(tmp_path, retries=1) as estate:
        estate.jenkins.connect_s = 75
        estate.start()
        estate.jenkins.queue()
        estate.finish(within_s=200)
        assert estate.outcomes() == {0: "ended: connect_timeout"}
        assert len(estate.jenkins.registered) == 2


def test_one_that_loses_its_connection_before_its_build_and_returns_runs_it(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.jenkins.queue()
        estate.pass_s(1)
        estate.jenkins.quieting = True  # so that it waits, connected
        estate.pass_s(5)
        (name,) = estate.jenkins.nodes
        assert estate.jenkins.nodes[name].online
        estate.jenkins.disconnect(name)
        estate.pass_s(1)
        estate.jenkins.quieting = False
        estate.finish(within_s=120)
        assert estate.outcomes() == {0: "ran"}
        assert estate.jenkins.registered == [name]


def test_one_that_returns_during_its_pipeline_goes_on_with_it(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.jenkins.queue(kind=ItemKind.PIPELINE, build_s=600)
        estate.pass_s(10)
        (name,) = estate.jenkins.nodes
        for away_s in (5.0, 60.0, CUT_OFF_S / 2):
            estate.jenkins.connect_s = away_s
            estate.jenkins.disconnect(name)
            estate.pass_s(min(away_s + 10, 200))
        estate.finish(within_s=2000)
        assert estate.outcomes() == {0: "ran"}
        assert estate.jenkins.registered == [name]


def test_one_that_does_not_return_is_given_up_and_its_pipeline_ends(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        work = estate.jenkins.queue(kind=ItemKind.PIPELINE, build_s=1e9)
        estate.pass_s(10)
        (name,) = estate.jenkins.nodes
        estate.jenkins.connect_s = 1e9
        estate.jenkins.disconnect(name)
        estate.pass_s(CUT_OFF_S - 60)
        assert not work.over
        estate.finish(within_s=300)
        assert work.ended == ["cut as allowed"]
        assert "did not come back within 30 minutes" in estate.store.gone_agents()[0].detail


def test_an_outage_of_the_controller_is_not_held_against_one_that_is_cut_off(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.jenkins.queue(kind=ItemKind.PIPELINE, build_s=CUT_OFF_S + 600)
        estate.pass_s(10)
        (name,) = estate.jenkins.nodes
        estate.jenkins.connect_s = 60
        estate.jenkins.disconnect(name)
        estate.pass_s(40)
        estate.jenkins.outage()
        estate.pass_s(CUT_OFF_S + 100)
        estate.jenkins.recover()
        estate.jenkins.nodes[name].online, estate.jenkins.nodes[name].connects_at_s = False, None
        estate.pass_s(120)
        estate.finish(within_s=CUT_OFF_S)
        assert estate.outcomes() == {0: "ran"}


def test_one_that_hangs_with_its_build_is_ended_by_the_limit_for_builds(tmp_path: Path) -> None:
    with Estate(tmp_path, timeouts={"connect": "60s", "build": "10m"}) as estate:
        estate.start()
        work = estate.jenkins.queue(build_s=1e9)
        estate.pass_s(590)
        assert not work.over
        (name,) = estate.jenkins.nodes
        estate.jenkins.excuse(name)
        estate.finish(within_s=60)
        assert work.ended == ["cut as allowed"]
        assert estate.store.gone_agents()[0].reason == "lifetime_exceeded"


def test_a_jump_of_the_wall_clock_is_no_time_that_a_build_ran(tmp_path: Path) -> None:
    with Estate(tmp_path, timeouts={"connect": "60s", "build": "10m", "lifetime": "20m"}) as estate:
        estate.start()
        estate.jenkins.queue(build_s=120)
        estate.pass_s(20)
        estate.clock.skew_s += 7200
        estate.finish(within_s=200)
        assert estate.outcomes() == {0: "ran"}
