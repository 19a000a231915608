"""Agents that are connected before a build asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from provisioner.config.standby_hours import StandbyHours
from provisioner.controller.port import BridgeMode
from provisioner.lifecycle.operations import Operations
from provisioner.lifecycle.outlook import Outlook
from provisioner.lifecycle.standby import GIVEN_MARK
from provisioner.model.agent import Agent, AgentState
from provisioner.model.errors import ControllerError, LaunchError, Reason
from provisioner.records.store import StoreError
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House

OTHER = {"name": "other", "labels": ["other"], "providers": ["box"], "image": "o:1"}


async def waiting(house: House, *, besides: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """The next standby agent, connected."""
    name = await house.agent(besides=besides)
    house.controller.connect(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.IDLE)
    return name


async def test_it_is_started_ahead_for_nobody_and_stays(make_house: Callable[..., House]) -> None:
    house = make_house(standby=2)
    first = await waiting(house)
    second = await waiting(house, besides={first})
    house.engine.planner.plan()
    assert set(house.desk.agents) == {first, second}
    assert house.controller.nodes[first].order.request is None
    assert house.controller.nodes[first].order.labels == ("maven",)


async def test_a_build_is_given_it_in_an_instant_and_another_one_takes_its_place(
    make_house: Callable[..., House],
) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    item = house.controller.queue()
    await house.until(lambda: house.controller.given)
    assert house.controller.given == [(name, item)]
    assert len(house.controller.registered) == 1  # the next one does not slow this build down
    assert any("it is given to this build" in line for told, lines in house.controller.told for line in lines)
    house.controller.start_build(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.RUNNING)
    await waiting(house, besides={name})
    house.controller.finish_build(name)
    await house.until(lambda: name not in house.desk.agents)
    assert len(house.controller.given) == 1


async def test_a_burst_takes_what_is_there_and_starts_the_rest(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    for _ in range(3):
        house.controller.queue()
    await house.until(lambda: len(house.desk.agents) == 3)
    assert [given for given, _ in house.controller.given] == [name]
    requests = {task.agent.request for task in house.desk.agents.values()}
    assert len(requests) == 3
    assert None not in requests


async def test_a_build_with_a_wish_of_its_own_gets_an_agent_of_its_own(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1, overrides={"memory": {"parameter": "MEM", "max": "8g"}})
    name = await waiting(house)
    house.controller.queue(parameters={"MEM": "2g"})
    await house.agent(besides={name})
    assert not house.controller.given


async def test_an_item_cancelled_after_it_was_given_an_agent_takes_it_along(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    item = house.controller.queue()
    await house.until(lambda: house.controller.given)
    house.controller.cancel(item)
    await house.until(lambda: name not in house.desk.agents)


async def test_a_build_that_it_cannot_be_given_to_gets_a_new_agent(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    house.controller.refuse["give"] = ControllerError("node is not known to the bridge", code=410)
    item = house.controller.queue()
    await house.until(lambda: name not in house.desk.agents)
    await house.until(lambda: item.key in house.desk.by_request)
    assert house.desk.by_request[item.key].agent.name != name


async def test_an_outage_while_it_is_given_delays_it_and_nothing_else(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    house.controller.refuse["give"] = ControllerError("reset", retryable=True)
    item = house.controller.queue()
    await house.until(lambda: house.desk.agents[name].agent.request == item.key)
    del house.controller.refuse["give"]
    await house.until(lambda: house.controller.given == [(name, item)])


async def test_killed_before_the_controller_was_told_it_is_given_by_the_next_start(
    make_house: Callable[..., House],
) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    house.controller.refuse["give"] = ControllerError("reset", retryable=True)
    item = house.controller.queue()
    await house.until(lambda: GIVEN_MARK in house.desk.agents[name].agent.marks)
    await house.kill()
    del house.controller.refuse["give"]
    house.revive()
    await house.until(lambda: house.controller.given == [(name, item)])
    assert len(house.controller.registered) == 1


async def test_killed_after_the_first_write_of_giving_it_is_known_to_be_its_builds(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    save = house.store.save_agent
    killed: list[str] = []

    def save_and_die(agent: Agent, at: datetime) -> None:
        if killed:
            raise StoreError("killed")
        save(agent, at)
        if GIVEN_MARK in agent.marks:
            killed.append(agent.name)
            raise StoreError("killed")

    monkeypatch.setattr(house.store, "save_agent", save_and_die)
    item = house.controller.queue()
    await house.until(lambda: killed == [name])
    await house.kill()
    house.controller.cancel(item)
    house.revive()
    assert house.desk.agents[name].agent.request == item.key
    await house.until(lambda: name not in house.desk.agents, "it goes with the item that it was given to")
    await waiting(house, besides={name})


async def test_one_that_an_earlier_release_gave_to_nobody_keeps_no_other_from_being_replaced(
    make_house: Callable[..., House],
) -> None:
    house = make_house(standby=1, more_templates=[{**OTHER, "standby": 1}])
    names = {(first := await waiting(house)), await waiting(house, besides={first})}
    maven = next(name for name in names if name.startswith("maven-"))
    task = house.desk.agents[maven]
    task.save(replace(task.agent, marks={**task.agent.marks, GIVEN_MARK: house.clock.now()}))
    await house.kill()
    house.revive()
    (other,) = names - {maven}
    Operations(house.engine).delete_now(other)
    replacement = await waiting(house, besides=names)
    assert replacement.startswith("other-")
    assert maven in house.desk.agents


async def test_a_restart_takes_it_over_and_it_still_waits(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    await house.kill()
    house.revive()
    house.controller.queue()
    await house.until(lambda: house.controller.given)
    assert house.controller.given[0][0] == name


async def test_one_that_lost_its_connection_is_given_to_nobody(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    house.controller.disconnect(name)
    await house.until(lambda: not house.desk.agents[name].facts.online)
    house.controller.queue()
    await house.agent(besides={name})
    assert not house.controller.given


async def test_a_waiting_build_of_another_template_gets_its_room(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1, box_agents=1, more_templates=[OTHER])
    name = await waiting(house)
    house.controller.queue(label="other")
    other = await house.agent(besides={name})
    assert house.desk.agents[other].agent.template == "other"
    assert house.backend.most == 1
    house.engine.planner.plan()
    assert list(house.desk.agents) == [other]
    house.controller.connect(other)
    house.controller.start_build(other)
    house.controller.finish_build(other)
    await waiting(house, besides={name, other})


@pytest.mark.parametrize(("box_agents", "agents"), [(3, 200), (9, 3)], ids=["provider", "limits.agents"])
async def test_only_as_many_yield_as_builds_wait(
    make_house: Callable[..., House], box_agents: int, agents: int
) -> None:
    house = make_house(standby=3, box_agents=box_agents, agents=agents, more_templates=[OTHER])
    names: set[str] = set()
    for _ in range(3):
        names.add(await waiting(house, besides=names))
    house.controller.queue(label="other")
    await house.agent(besides=names)
    house.engine.planner.plan()
    assert sum(task.agent.request is None for task in house.desk.agents.values()) == 2


async def test_it_goes_when_the_template_changes_or_it_grew_old(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    old = await waiting(house)
    changed = house.settings.model_copy(
        update={"templates": (house.settings.templates[0].model_copy(update={"image": "maven:4"}),)}
    )
    house.desk.settings = changed
    house.engine.planner.reconfigure()
    house.desk.plan_again.set()
    new = await waiting(house, besides={old})
    assert house.backend.instances[new].order.image == "maven:4"
    await house.until(lambda: old not in house.desk.agents)
    house.desk.agents[new]._began -= 3601
    house.desk.plan_again.set()
    await waiting(house, besides={old, new})
    await house.until(lambda: new not in house.desk.agents)


async def test_a_launch_ahead_that_fails_is_not_repeated_at_once(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    house.backend.fail_with = LaunchError("no such image", reason=Reason.IMAGE_NOT_FOUND)
    house.desk.plan_again.set()
    await house.until(lambda: house.controller.registered and house.nothing_left())
    for _ in range(20):
        house.engine.planner.plan()
    assert len(house.controller.registered) == 1


async def test_no_more_are_started_at_once_than_may_be_launching(make_house: Callable[..., House]) -> None:
    house = make_house(standby=8, launching=2)
    await house.until(lambda: house.desk.agents)
    house.engine.planner.plan()
    assert len(house.desk.agents) == 1, "half is left to builds"


async def test_without_the_bridge_there_is_none(make_house: Callable[..., House]) -> None:
    house = make_house(FakeController(mode=BridgeMode.OFF), standby=1)
    house.controller.queue()
    await house.agent()
    house.engine.planner.plan()
    assert all(task.agent.request for task in house.desk.agents.values())


async def test_a_drain_removes_those_that_wait_and_no_other(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1)
    name = await waiting(house)
    house.controller.queue()
    await house.until(lambda: house.controller.given)
    house.controller.start_build(name)
    spare = await waiting(house, besides={name})
    house.engine.planner.stopped = True
    assert house.engine.planner.standby.retire_all() == [spare]
    await house.until(lambda: list(house.desk.agents) == [name])


async def test_explain_names_it_even_where_its_provider_is_full(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1, box_agents=1)
    await waiting(house)
    explained = Outlook(house.engine).explain_label("maven")
    assert (explained.verdict.value, explained.provider) == ("yes", "box")


async def test_what_it_waited_does_not_count_against_the_builds_lifetime(make_house: Callable[..., House]) -> None:
    house = make_house(standby=1, timeouts={"lifetime": "10m"})
    name = await waiting(house)
    house.controller.queue()
    await house.until(lambda: house.controller.given)
    house.desk.agents[name]._began -= 700
    house.controller.start_build(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.RUNNING)
    await waiting(house, besides={name})
    assert not house.desk.agents[name].doomed


def on_the_way(house: House) -> list[str]:
    return [n for n, t in house.desk.agents.items() if t.agent.request is None and t.agent.state is not AgentState.IDLE]


async def test_many_are_started_a_few_at_a_time(make_house: Callable[..., House]) -> None:
    house = make_house(standby=6, more_templates=[{**OTHER, "standby": 6}], box_agents=20, launching=12)
    seen: set[str] = set()
    while len(seen) < 12:
        seen.add(name := await house.agent(besides=seen))
        coming = [n.rpartition("-")[0] for n in on_the_way(house)]
        assert len(coming) <= 3, "a quarter of limits.launching"
        assert max(coming.count("maven"), coming.count("other")) <= 2
        house.controller.connect(name)
    await house.until(lambda: not on_the_way(house))
    assert len(house.controller.registered) == 12


async def test_those_that_grew_old_together_are_replaced_one_after_the_other(make_house: Callable[..., House]) -> None:
    house = make_house(standby=3)
    names: set[str] = set()
    for _ in range(3):
        names.add(await waiting(house, besides=names))
    for task in house.desk.agents.values():
        task._began -= 4000.0
    house.engine.planner.plan()
    gone = {name for name in names if house.desk.agents[name].doomed}
    assert len(gone) == 1
    house.engine.planner.plan()
    assert {name for name in names if name in house.desk.agents and house.desk.agents[name].doomed} <= gone
    replacement = await waiting(house, besides=names)
    await house.until(lambda: sum(n in house.desk.agents and not house.desk.agents[n].doomed for n in names) == 1)
    assert not house.desk.agents[replacement].doomed


async def test_more_of_them_wait_at_some_hours_than_at_others(make_house: Callable[..., House]) -> None:
    house = make_house(standby_hours=[{"from": "00:00", "to": "24:00", "agents": 2}], standby=0)
    first = await waiting(house)
    second = await waiting(house, besides={first})
    house.engine.planner.plan()
    assert set(house.desk.agents) == {first, second}
    # an hour that is not now: they go, and none comes
    then = house.clock.now()
    away = {"from": f"{(then.hour + 2) % 24:02}:00", "to": f"{(then.hour + 3) % 24:02}:00", "agents": 2}
    template = house.settings.templates[0].model_copy(update={"standby_hours": (StandbyHours.model_validate(away),)})
    house.desk.settings = house.settings.model_copy(update={"templates": (template,)})
    house.engine.planner.reconfigure()
    house.desk.plan_again.set()
    await house.until(lambda: not house.desk.agents)
    house.engine.planner.plan()
    assert not house.desk.agents
