"""An agent that is there while its build waits: it does not wait for ever, and whoever asks is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from provisioner.controller.port import BridgeMode
from provisioner.lifecycle import steps, untaken
from provisioner.lifecycle.operations import Operations, Refused
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.agent import AgentState
from provisioner.model.errors import ControllerError, Reason
from provisioner.model.queue import QueueItem
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House

VETO = "a plugin says no"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes are hundredths of a second."""
    monkeypatch.setattr(untaken, "_TOLD_AFTER_S", 0.02)
    monkeypatch.setattr(untaken, "_REPLACED_AFTER_S", 0.1)
    monkeypatch.setattr(steps, "_LOOK_WHILE_IDLE_S", 0.01)


def state(house: House, name: str) -> AgentState:
    return house.desk.agents[name].agent.state


def lines(house: House, name: str) -> str:
    return "\n".join(text for _, _, text in house.store.lines(name))


def show(house: House, item: QueueItem) -> None:
    house.controller.items[item.key.queue_id] = item
    house.controller.show()


async def idle(house: House, *, buildable_ms: int | None) -> tuple[str, QueueItem]:
    """An agent that is connected, and whose build does not start."""
    item = replace(house.controller.queue(), buildable_ms=buildable_ms, why=VETO)
    name = await house.agent()
    show(house, item)
    house.controller.connect(name)
    await house.until(lambda: state(house, name) is AgentState.IDLE)
    return name, item


@pytest.mark.parametrize("mode", [BridgeMode.SCRIPT, BridgeMode.OFF])
async def test_one_on_which_nothing_keeps_its_build_from_starting_is_replaced_and_says_so(
    make_house: Callable[..., House], mode: BridgeMode
) -> None:
    house = make_house(controller=FakeController(mode=mode))
    name, _ = await idle(house, buildable_ms=1)
    await house.until(lambda: "Jenkins has not started the build on it" in lines(house, name))
    following = await house.agent(besides={name})
    assert "It is replaced: no build started on it" in lines(house, name)
    house.controller.connect(following)
    house.controller.start_build(following)
    house.controller.finish_build(following)
    await house.until(house.nothing_left)
    assert not house.controller.failed


async def test_what_refuses_each_agent_anew_refuses_them_ever_more_slowly(house: House) -> None:
    seen: list[str] = []
    item = replace(house.controller.queue(), buildable_ms=1, why=VETO)
    for _ in range(3):
        seen.append(await house.agent(besides=set(seen)))
        show(house, item)
        house.controller.connect(seen[-1])
        await house.until(lambda: seen[-1] not in house.desk.agents)
    gone = [house.store.agent(name) for name in seen]
    waited = [(a.marks["removing"] - a.marks["idle"]).total_seconds() for a in gone if a is not None]
    assert [seconds >= least for seconds, least in zip(waited, (0.1, 0.2, 0.4), strict=True)] == [True] * 3


async def test_one_whose_build_jenkins_holds_stays_and_explain_says_why(house: House) -> None:
    name, item = await idle(house, buildable_ms=None)  # blocked: by a throttle, a lock, a build of the same job
    await house.until(lambda: "Jenkins has not started the build on it" in lines(house, name))
    since = house.desk.clock.monotonic()
    await house.until(lambda: house.desk.clock.monotonic() - since > 0.3)
    assert not house.desk.agents[name].doomed
    told = f"agent {name} is connected: its build starts as soon as Jenkins lets it; Jenkins says: {VETO}"
    assert Outlook(house.engine).explain_item(item.key.queue_id).next_step == told
    assert [waiting.next_step for waiting in Outlook(house.engine).waiting()] == [told]


async def test_one_that_waits_for_the_end_of_a_shutdown_in_preparation_stays(house: House) -> None:
    name, item = await idle(house, buildable_ms=1)
    house.controller.quieting_down = True
    show(house, item)
    await house.until(lambda: house.desk.controllers["main"].quieting_down)
    since = house.desk.clock.monotonic()
    await house.until(lambda: house.desk.clock.monotonic() - since > 0.3)
    assert not house.desk.agents[name].doomed


async def test_one_whose_build_starts_while_it_is_given_up_keeps_it(house: House) -> None:
    name, _ = await idle(house, buildable_ms=1)
    house.controller.refuse["snapshot"] = ControllerError("timed out", retryable=True)
    await house.until(lambda: house.desk.agents[name].doomed and house.controller.nodes[name].barred)
    house.controller.start_build(name)
    del house.controller.refuse["snapshot"]
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    assert not house.desk.agents[name].doomed
    house.controller.finish_build(name)
    await house.until(house.nothing_left)


async def test_its_lifetime_ends_one_that_waits_for_its_build(make_house: Callable[..., House]) -> None:
    house = make_house(timeouts={"lifetime": 1})
    name, _ = await idle(house, buildable_ms=None)
    await house.until(lambda: name not in house.desk.agents)
    agent = house.store.agent(name)
    assert agent is not None
    assert agent.reason is Reason.LIFETIME_EXCEEDED
    await house.agent(besides={name})


async def test_one_that_stands_by_is_replaced_at_its_age_and_has_outlived_nothing(
    make_house: Callable[..., House],
) -> None:
    house = make_house(timeouts={"lifetime": 1}, standby=1)
    name = await house.agent()
    house.controller.connect(name)
    await house.until(lambda: state(house, name) is AgentState.IDLE)
    await house.until(lambda: name not in house.desk.agents)
    agent = house.store.agent(name)
    assert agent is not None
    assert agent.reason is None
    assert agent.detail.startswith("it has waited for long enough")


async def test_a_delete_that_is_refused_closes_no_node(house: House) -> None:
    name, _ = await idle(house, buildable_ms=None)
    house.controller.refuse["snapshot"] = ControllerError("timed out", retryable=True)
    with pytest.raises(Refused):
        await Operations(house.engine).delete(name)
    assert not house.controller.nodes[name].barred
    assert not house.desk.agents[name].doomed


@pytest.mark.parametrize("started", [False, True], ids=["idle", "its build has just started"])
async def test_a_delete_that_could_not_look_again_goes_on_and_ends_no_build(
    house: House, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    name, _ = await idle(house, buildable_ms=None)
    bar = house.controller.bar

    async def bar_and_break(node: str) -> None:
        await bar(node)
        house.controller.refuse["snapshot"] = ControllerError("timed out", retryable=True)

    monkeypatch.setattr(house.controller, "bar", bar_and_break)
    await Operations(house.engine).delete(name)
    monkeypatch.setattr(house.controller, "bar", bar)
    assert house.controller.nodes[name].barred
    if started:
        house.controller.start_build(name)
    house.controller.refuse.clear()
    if not started:
        await house.until(lambda: name not in house.desk.agents)
        return
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    assert not house.desk.agents[name].doomed
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
