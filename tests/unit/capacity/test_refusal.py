"""A provider that has less room than its configuration says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from provisioner.capacity.plant import Bounded, Plant, Tally, Wanted
from provisioner.capacity.refusal import FIRST_PAUSE_S, MOST_PAUSE_S, Refusal
from provisioner.capacity.room import room_for
from tests.unit.capacity.plants import Box, Caps, One, Rules

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_what_it_held_is_its_room_until_the_pause_is_over_and_then_one_more_tries() -> None:
    refusal = Refusal.first("its disk is full", 3, NOW)
    assert refusal.room(3, later(1)) == 3
    assert refusal.room(2, later(1)) == 3, "one that went makes room for one"
    assert refusal.room(3, later(FIRST_PAUSE_S + 1)) == 4
    assert refusal.room(4, later(FIRST_PAUSE_S + 2)) == 5, "each that has started makes way for the next"


def test_launches_that_were_under_way_do_not_lengthen_the_pause_and_those_that_fitted_count() -> None:
    first = Refusal.first("full", 1, NOW)
    second = first.again("full", 3, later(2)).again("full", 2, later(3))
    assert second.until == first.until
    assert second.room(2, later(4)) == 3


def test_each_refusal_after_the_pause_doubles_it_up_to_five_minutes() -> None:
    refusal, now = Refusal.first("full", 2, NOW), NOW
    pauses = []
    for _ in range(7):
        now = refusal.until + timedelta(seconds=1)
        refusal = refusal.again("full", 1, now)
        pauses.append(refusal.pause_s)
    assert pauses == [20, 40, 80, 160, MOST_PAUSE_S, MOST_PAUSE_S, MOST_PAUSE_S]
    assert refusal.room(1, now) == 1, "what others have taken meanwhile is no longer its room"


def test_it_is_forgotten_when_it_has_not_refused_for_long_and_a_clock_that_was_set_back_keeps_nothing_waiting() -> None:
    refusal = Refusal.first("full", 2, NOW)
    assert not refusal.over(later(FIRST_PAUSE_S + 1))
    assert refusal.over(later(FIRST_PAUSE_S + MOST_PAUSE_S + 1))
    assert not refusal.waits(later(-3600))


def test_the_wait_says_what_is_lacking_and_when_it_is_tried_again() -> None:
    box = Bounded(name="box", max_agents=2, reason="no address is free in its network", until="12:00:10 UTC")
    plant = Plant(templates={"t": Rules(name="t")}, providers={"box": box}, limits=Caps())
    full = room_for(Wanted(template="t"), plant, Tally.of([One(template="t"), One(template="t")]))
    assert full.reasons == ("provider box is full (2 of 2 agents): no address is free in its network",)
    assert full.next_step == (
        "an agent is started as soon as one of the 2 agents at box is gone or box is tried again at 12:00:10 UTC"
    )
    nothing = Plant(
        templates=plant.templates, providers={"box": Bounded(name="box", max_agents=0, reason="x")}, limits=Caps()
    )
    empty = room_for(Wanted(template="t"), nothing, Tally())
    assert empty.next_step == "an agent is started as soon as box is tried again"
    assert room_for(Wanted(template="t"), Plant(templates=plant.templates, providers={"box": Box()}, limits=Caps()),
                    Tally()).provider == "box"  # fmt: skip
