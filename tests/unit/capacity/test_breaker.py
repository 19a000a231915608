"""When launches of a template at a provider are left alone, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from provisioner.capacity.breaker import CLOSED, FAILURES_IN_A_ROW, FIRST_PAUSE_S, MOST_PAUSE_S, Breaker
from provisioner.capacity.placement import Asked, place
from provisioner.capacity.plant import Condition, ProviderState
from provisioner.model.agent import AgentState
from tests.unit.capacity.plants import Box, One, Rules, plant, queue, shown

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def opened() -> Breaker:
    return CLOSED.failed("a", NOON).failed("b", NOON).failed("it exited", NOON)


def test_two_failures_in_a_row_leave_it_closed_and_the_third_opens_it_for_two_minutes() -> None:
    two = CLOSED.failed("a", NOON).failed("b", NOON)
    assert two.condition(NOON) is None
    three = two.failed("it exited", NOON)
    assert three.is_open(after(119))
    assert not three.is_open(after(120))
    assert str(three.condition(NOON)) == (
        "cooling down until 12:02:00 UTC: 3 launches in a row failed, the last one: it exited"
    )


def test_after_the_pause_it_is_probed_and_a_failed_probe_doubles_the_pause_up_to_half_an_hour() -> None:
    breaker, now, pauses = opened(), NOON, []
    for _ in range(7):
        assert breaker.open_until is not None
        now = breaker.open_until
        condition = breaker.condition(now)
        assert condition is not None
        assert condition.state is ProviderState.PROBING
        breaker = breaker.failed("again", now)
        pauses.append(breaker.pause_s)
    assert pauses == [240, 480, 960, 1800, 1800, 1800, 1800]


def test_launches_that_began_before_it_opened_do_not_lengthen_its_pause() -> None:
    late = opened().failed("c", after(1)).failed("d", after(100))
    assert late.open_until == after(FIRST_PAUSE_S)
    assert late.failures == 5


def test_a_clock_that_was_set_back_by_hours_does_not_keep_it_open_for_hours() -> None:
    condition = opened().condition(NOON - timedelta(hours=5))
    assert condition is not None
    assert condition.state is ProviderState.PROBING


@given(st.lists(st.floats(0, 4000), max_size=30))
def test_a_pause_is_never_longer_than_half_an_hour_and_begins_only_after_three_failures(gaps: list[float]) -> None:
    breaker, now = CLOSED, NOON
    for number, gap in enumerate(gaps, start=1):
        now += timedelta(seconds=gap)
        breaker = breaker.failed("x", now)
        assert (breaker.open_until is not None) is (number >= FAILURES_IN_A_ROW)
        assert breaker.open_until is None or breaker.open_until <= now + timedelta(seconds=MOST_PAUSE_S)


PROBED = {("a", "maven"): Condition(state=ProviderState.PROBING, reason="one launch tries it again after: x")}


def test_a_half_open_pair_gets_one_launch_and_the_others_go_to_the_next_provider_or_wait() -> None:
    from dataclasses import replace

    half = replace(
        plant([Rules(name="maven", providers=("a", "b"))], [Box(name="a"), Box(name="b", max_agents=1)]),
        pair_conditions=PROBED,
    )
    told = "provider a is, for template maven, probing: one launch tries it again after: x"
    assert shown(place(queue(*["maven"] * 3), plant=half, agents=[])) == [
        "maven@a",
        "maven@b",
        f"{told}; provider b is full (1 of 1 agents)",
    ]
    # an agent that runs a build is no probe; one on its way is
    running = [One(template="maven", provider="a", state=AgentState.RUNNING)]
    assert shown(place(queue("maven"), plant=half, agents=running)) == ["maven@a"]
    coming = [One(template="maven", provider="a", state=AgentState.CONNECTING)]
    assert shown(place(queue("maven"), plant=half, agents=coming)) == ["maven@b"]


def test_a_request_that_failed_at_a_provider_goes_to_another_one_and_back_only_if_there_is_none() -> None:
    one_plant = plant([Rules(name="maven", providers=("a", "b"))], [Box(name="a"), Box(name="b", max_agents=1)])
    (entry,) = queue("maven")

    def at(*failed_at: str, agents: tuple[One, ...] = ()) -> list[str]:
        asked = Asked(key=entry.key, routing=entry.routing, failed_at=failed_at)
        return shown(place([asked], plant=one_plant, agents=agents))

    assert at() == ["maven@a"]
    assert at("a") == ["maven@b"]
    assert at("a", agents=(One(template="maven", provider="b"),)) == ["maven@a"]
    assert at("a", "b") == ["maven@a"]
    assert at("b", "a") == ["maven@b"]
