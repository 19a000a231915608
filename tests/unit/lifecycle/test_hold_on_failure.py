"""Agents whose build failed are kept for debugging, where the template says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from provisioner.controller.port import BridgeMode
from provisioner.lifecycle import holding
from provisioner.lifecycle.operations import Operations
from provisioner.model.agent import AgentState
from provisioner.model.queue import ItemKind
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House


async def ended(house: House, result: str | None, *, kind: ItemKind = ItemKind.FREESTYLE) -> str:
    """An agent whose build ended with this result."""
    before = set(house.desk.agents)
    house.controller.queue(kind=kind)
    name = await house.agent(besides=before)
    house.controller.connect(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.IDLE)
    house.controller.start_build(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.RUNNING)
    house.controller.finish_build(name, result)
    return name


def held(house: House) -> list[str]:
    return [name for name, task in house.desk.agents.items() if task.agent.held(house.clock.now())]


async def test_by_default_nothing_is_held_and_nobody_is_asked(house: House) -> None:
    house.controller.refuse["outcome"] = AssertionError("asked for a result that nobody needs")  # type: ignore[assignment]
    await ended(house, "FAILURE")
    await house.until(house.nothing_left)


async def test_a_failed_build_keeps_its_agent_and_its_slot(make_house: Callable[..., House]) -> None:
    house = make_house(hold_on_failure=1)
    name = await ended(house, "FAILURE")
    await house.until(lambda: held(house) == [name])
    agent = house.desk.agents[name].agent
    assert agent.held_until is not None
    assert timedelta(hours=1, minutes=59) < agent.held_until - house.clock.now() <= timedelta(hours=2)
    assert agent.hold_reason == "its build failed"
    assert name in house.backend.instances
    await house.until(lambda: house.controller.nodes[name].barred, "no second build gets onto it")
    told = [line for agent_name, lines in house.controller.told for line in lines if agent_name == name]
    assert f"`provisioner release {name}` ends that" in told[-1]
    Operations(house.engine).release(name)
    await house.until(house.nothing_left)


@pytest.mark.parametrize("result", ["SUCCESS", "UNSTABLE", "ABORTED"])
async def test_any_other_end_keeps_nothing(make_house: Callable[..., House], result: str) -> None:
    house = make_house(hold_on_failure="30m")
    await ended(house, result)
    await house.until(house.nothing_left)


async def test_no_more_are_held_at_a_time_than_the_template_says(make_house: Callable[..., House]) -> None:
    house = make_house(hold_on_failure=1)
    first = await ended(house, "FAILURE")
    await house.until(lambda: held(house) == [first])
    second = await ended(house, "FAILURE")
    await house.until(lambda: second not in house.desk.agents)
    assert held(house) == [first]


async def test_with_a_duration_each_is_held_for_so_long(make_house: Callable[..., House]) -> None:
    house = make_house(hold_on_failure="0.3s")
    names = [await ended(house, "FAILURE") for _ in range(2)]
    await house.until(house.nothing_left)
    for name in names:
        assert "It is no longer held" in [text for _, _, text in house.store.lines(name)]


async def test_the_run_of_a_node_block_is_asked_soon_after_it(make_house: Callable[..., House]) -> None:
    house = make_house(hold_on_failure=1)
    name = await ended(house, None, kind=ItemKind.PIPELINE)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.FINISHED)
    house.controller.outcomes["job/app/1/"] = "FAILURE"
    await house.until(lambda: held(house) == [name])


async def test_a_person_who_holds_it_while_its_result_is_waited_for_has_the_last_word(
    make_house: Callable[..., House],
) -> None:
    house = make_house(hold_on_failure=1)
    name = await ended(house, None, kind=ItemKind.PIPELINE)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.FINISHED)
    until = Operations(house.engine).hold(name, for_s=8 * 3600, reason="mine").held_until
    house.controller.outcomes["job/app/1/"] = "FAILURE"
    await house.until(lambda: house.controller.nodes[name].barred, "it is kept")
    agent = house.desk.agents[name].agent
    assert (agent.held_until, agent.hold_reason) == (until, "mine")
    Operations(house.engine).release(name)
    await house.until(house.nothing_left)


async def test_a_run_that_goes_on_keeps_nothing(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_RESULT_S", 0.05)
    monkeypatch.setattr(holding, "_ASK_AGAIN_S", 0.01)
    house = make_house(hold_on_failure=1)
    await ended(house, None, kind=ItemKind.PIPELINE)
    await house.until(house.nothing_left)


async def test_without_the_bridge_the_result_is_asked(make_house: Callable[..., House]) -> None:
    house = make_house(FakeController(mode=BridgeMode.OFF), hold_on_failure=1)
    name = await ended(house, "FAILURE")
    house.controller.show()
    await house.until(lambda: held(house) == [name])


async def test_a_hold_outlives_the_sidecar_and_is_not_taken_up_again(make_house: Callable[..., House]) -> None:
    house = make_house(hold_on_failure=1)
    name = await ended(house, "FAILURE")
    await house.until(lambda: held(house) == [name])
    await house.kill()
    house.revive()
    await house.until(lambda: house.desk.controllers["main"].seen)
    assert held(house) == [name]
    Operations(house.engine).release(name)
    await house.until(house.nothing_left)
