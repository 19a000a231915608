"""Builds that wait, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from provisioner.lifecycle.outlook import Outlook
from provisioner.model.agent import AgentState
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House


async def full(make_house: Callable[..., House]) -> House:
    """One agent at work, one build that waits for its slot."""
    house = make_house(box_agents=1)
    house.controller.queue()
    await house.agent()
    house.controller.queue(kind=ItemKind.PIPELINE)
    await house.until(lambda: len(list(house.desk.book)) == 2)
    house.controller.told.clear()
    return house


def told(house: House) -> list[str]:
    return [line for name, lines in house.controller.told if name is None for line in lines]


async def test_a_short_wait_is_not_told(make_house: Callable[..., House]) -> None:
    house = await full(make_house)
    house.clock.shift = timedelta(seconds=5)
    house.engine.patience.look()
    await house.desk.errand(_nothing(), name="after the others")
    assert told(house) == []


async def _nothing() -> None:
    return None


async def test_a_long_wait_is_told_once_with_what_explain_says_and_again_when_the_reason_is_another(
    make_house: Callable[..., House],
) -> None:
    house = await full(make_house)
    house.clock.shift = timedelta(seconds=16)
    for _ in range(3):
        house.engine.patience.look()
    await house.until(lambda: told(house))
    (waiting,) = [w for w in Outlook(house.engine).waiting() if w.reasons]
    explained = Outlook(house.engine).explain_item(waiting.request.item.key.queue_id)
    assert (explained.reasons, explained.next_step) == (waiting.reasons, waiting.next_step)
    assert told(house) == [f"It has waited for 16 s: {'; '.join(explained.reasons)}. Next: {explained.next_step}"]
    assert waiting.reasons == ("provider box is full (1 of 1 agents)",)
    assert waiting.next_step == "an agent is started as soon as the agent at box is gone"
    house.desk.providers["box"].drained = True
    for _ in range(3):
        house.engine.patience.look()
    await house.until(lambda: len(told(house)) == 2)
    assert told(house)[1] == (
        "It still waits: provider box is draining: `provisioner drain`. Next: an agent is started as soon as somebody "
        "says `provisioner resume box`"
    )


async def test_what_could_not_be_told_is_told_later(make_house: Callable[..., House]) -> None:
    house = await full(make_house)
    house.clock.shift = timedelta(seconds=16)
    house.controller.refuse["tell"] = ControllerError("busy")
    house.engine.patience.look()
    await house.until(lambda: not house.engine.patience._told)
    del house.controller.refuse["tell"]
    house.engine.patience.look()
    await house.until(lambda: told(house))


async def test_nothing_is_placed_while_the_controller_quiets_down(house: House) -> None:
    house.controller.quieting_down = True
    house.controller.show()
    await house.until(lambda: house.desk.controllers["main"].quieting_down)
    item = house.controller.queue()
    await house.until(lambda: list(house.desk.book))
    house.engine.planner.plan()
    assert not house.desk.agents
    (reason,) = Outlook(house.engine).explain_item(item.key.queue_id).reasons
    assert reason == "controller main is about to shut down and starts no builds"
    house.controller.quieting_down = False
    house.controller.show()
    await house.agent()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"head_start": "1s"},
        {"standby": 4},
        {"retries": 3, "fails": 6},
        {"head_start": "1s", "standby": 4, "retries": 3, "fails": 6},
    ],
    ids=["plain", "head start", "standby", "retries", "all"],
)
async def test_a_burst_of_a_hundred_makes_a_hundred_agents_and_never_more_at_once(
    make_house: Callable[..., House], more: dict[str, Any]
) -> None:
    """Of 500 that there is room for; beside the standby agents that were asked for."""
    fails, standby = int(more.pop("fails", 0)), int(more.get("standby", 0))
    controller = FakeController()
    controller.others_serve = "head_start" in more
    house = make_house(controller, box_agents=500, launching=500, **more)
    ready: set[str] = set()
    while len(ready) < standby:
        ready.add(name := await house.agent(besides=ready))
        house.controller.connect(name)
        await house.until(lambda name=name: house.desk.agents[name].agent.state is AgentState.IDLE)  # type: ignore[misc]
    failing = iter(range(fails))

    async def fail_some() -> None:
        """Some of the launches fail after their start, as the fake's `end` does."""
        done: set[str] = set()
        while (number := next(failing, None)) is not None:
            del number
            name = await house.agent(besides=done | ready)
            done.add(name)
            house.backend.end(name)
            await house.until(lambda name=name: house.desk.agents[name].doomed or house.desk.agents[name].agent.reason
                              if name in house.desk.agents else True)  # type: ignore[misc]  # fmt: skip
            done.add(well := await house.agent(besides=done | ready))
            house.controller.connect(well)  # so that never three fail in a row
            await house.until(lambda well=well: house.desk.agents[well].agent.state is AgentState.IDLE)  # type: ignore[misc]

    for number in range(100):
        house.controller.queue(job=f"j{number}")
        if number % 10 == 0:
            house.controller.show()
    for _ in range(5):
        house.controller.show()
    breaking = asyncio.create_task(fail_some())
    served = {request.item.key for request in house.desk.book}

    def all_served() -> bool:
        live = [task for task in house.desk.agents.values() if not task.doomed]
        for_builds = [t for t in live if t.agent.request is not None and t.agent.state is not AgentState.REMOVING]
        assert len(for_builds) <= 100
        assert len({task.agent.request for task in for_builds}) == len(for_builds)
        return len(for_builds) == 100 and breaking.done()

    await house.until(all_served, "a hundred agents", within_s=60)
    await breaking
    assert len(served) <= 100
    assert house.backend.most <= 100 + standby + 2
    house.engine.planner.plan()
    assert len([t for t in house.desk.agents.values() if t.agent.request is not None and not t.doomed]) <= 100 + fails


async def test_a_burst_of_a_hundred_makes_a_hundred_agents_whatever_is_seen_twice(
    make_house: Callable[..., House],
) -> None:
    house = make_house(box_agents=500, launching=500)
    for number in range(100):
        house.controller.queue(job=f"j{number}")
        if number % 10 == 0:
            house.controller.show()
    for _ in range(5):
        house.controller.show()
    await house.until(lambda: len(house.controller.nodes) == 100)
    house.engine.planner.plan()
    assert len(house.desk.agents) == 100
    assert len({task.agent.request for task in house.desk.agents.values()}) == 100
