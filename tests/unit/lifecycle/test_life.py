"""The life of an agent, from the queue item to nothing left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from provisioner.backends.contract import InstanceState, Status
from provisioner.controller.port import AgentPort, BridgeMode, FailOutcome
from provisioner.model.agent import AgentState
from provisioner.model.errors import ControllerError, LaunchError, Reason
from provisioner.model.queue import ItemKind
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House


def state(house: House, name: str) -> AgentState:
    return house.desk.agents[name].agent.state


async def test_a_queued_build_gets_an_agent_runs_and_leaves_nothing(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    assert name.startswith("maven-")
    assert house.controller.nodes[name].order.labels == ("maven",)
    assert house.backend.instances[name].order.files[0].content == f"secret of {name}".encode()
    house.controller.connect(name)
    await house.until(lambda: state(house, name) is AgentState.IDLE)
    house.controller.start_build(name)
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
    record = house.store.agent(name)
    assert record is not None
    assert record.state is AgentState.REMOVED
    assert record.reason is None
    lines = [t for _, _, t in house.store.lines(name)]
    assert any(line.startswith(f"Agent {name} connected ") for line in lines), "whoever follows the log sees it"
    assert lines[-1].startswith(f"Agent {name} is done")
    told = [line for _, said in house.controller.told for line in said]
    assert not any(" connected " in line for line in told), "the bridge tells the build, and once is enough"


async def test_an_item_that_no_template_serves_gets_nothing(house: House) -> None:
    house.controller.queue(label="windows")
    house.controller.queue(label="maven")
    await house.agent()
    assert len(house.controller.registered) == 1


async def test_never_more_agents_than_the_provider_holds(make_house: Callable[..., House]) -> None:
    house = make_house(box_agents=4)
    for _ in range(10):
        house.controller.queue()
    done: set[str] = set()
    for _ in range(10):
        name = await house.agent(besides=done)
        done.add(name)
        house.controller.connect(name)
        house.controller.start_build(name)
        house.controller.finish_build(name)
    await house.until(house.nothing_left)
    assert house.backend.most <= 4
    assert len(done) == 10


async def test_an_item_cancelled_before_its_agent_connects_leaves_nothing(house: House) -> None:
    item = house.controller.queue()
    name = await house.agent()
    house.controller.cancel(item)
    await house.until(house.nothing_left)
    record = house.store.agent(name)
    assert record is not None
    assert record.reason is Reason.CANCELLED


async def test_an_item_cancelled_during_the_start_of_its_instance_leaves_nothing(
    make_house: Callable[..., House],
) -> None:
    import asyncio

    house = make_house()
    house.backend.gate = asyncio.Event()
    item = house.controller.queue()
    await house.until(lambda: house.backend.instances)
    house.controller.cancel(item)
    await house.until(lambda: house.backend.stopped)
    house.backend.gate.set()
    await house.until(house.nothing_left)


async def test_an_item_taken_by_a_static_node_frees_its_agent(house: House) -> None:
    item = house.controller.queue()
    await house.agent()
    house.controller.take_elsewhere(item)
    await house.until(house.nothing_left)


async def test_a_missing_image_ends_the_build_at_once(house: House) -> None:
    house.backend.fail_with = LaunchError("image maven:3.9 does not exist", reason=Reason.IMAGE_NOT_FOUND)
    house.controller.queue()
    await house.until(lambda: house.controller.failed)
    await house.until(house.nothing_left)
    (_, reason, message, lines) = house.controller.failed[0]
    assert (reason, message) == ("image_not_found", "image maven:3.9 does not exist")
    assert any("(image_not_found)" in line for line in lines)
    assert len(house.controller.registered) == 1


async def test_an_agent_that_exits_is_tried_once_more_and_then_ends_the_build(house: House) -> None:
    house.controller.queue()
    first = await house.agent()
    house.backend.end(first, exit_code=3)
    second = await house.agent(besides={first})
    assert second != first
    house.backend.end(second, exit_code=3)
    await house.until(lambda: house.controller.failed)
    assert house.controller.failed[0][1] == "agent_exited"
    assert "exit code 3" in house.controller.failed[0][2]
    assert "    last words" in house.controller.failed[0][3]
    await house.until(house.nothing_left)


async def test_the_registrys_fault_waits_and_never_ends_the_build(house: House) -> None:
    house.backend.fail_with = LaunchError("the registry does not answer", reason=Reason.REGISTRY_ERROR)
    house.controller.queue()
    await house.until(lambda: any(r.world_faults for r in house.desk.book))
    await house.until(house.nothing_left)
    assert not house.controller.failed
    (request,) = house.desk.book
    assert request.attempts == 0
    assert request.not_before is not None


async def test_a_request_that_others_can_serve_is_spared_and_waits(house: House) -> None:
    house.controller.fail_outcome = FailOutcome.SPARED
    house.backend.fail_with = LaunchError("no such image", reason=Reason.IMAGE_NOT_FOUND)
    house.controller.queue()
    await house.until(lambda: house.controller.failed and house.nothing_left())
    await house.until(lambda: [r.state.value for r in house.desk.book] == ["waiting"])


async def test_an_instance_that_dies_under_its_build_is_told_and_taken_down(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    house.backend.end(name, exit_code=137, out_of_memory=True)
    await house.until(lambda: house.desk.agents[name].agent.reason is Reason.OUT_OF_MEMORY)
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
    assert any("out of memory" in line for _, lines in house.controller.told for line in lines)


async def running(house: House) -> str:
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    return name


def lost_lines(house: House, name: str) -> list[str]:
    return [text for _, _, text in house.store.lines(name) if text.startswith("The agent was lost")]


@pytest.mark.parametrize("offline_is_told", [True, False])
async def test_a_build_that_ends_before_the_provider_tells_of_the_death_gets_the_reason(
    house: House, offline_is_told: bool
) -> None:
    name = await running(house)
    if offline_is_told:
        house.controller.disconnect(name)
    house.controller.finish_build(name, lost=True)  # by its broken connection
    await house.until(lambda: house.desk.agents[name].facts.lost)
    await asyncio.sleep(0.05)
    assert state(house, name) is AgentState.RUNNING
    house.backend.end(name, exit_code=137, out_of_memory=True)
    await house.until(house.nothing_left)
    (line,) = lost_lines(house, name)
    assert line.endswith("ran out of memory while its build ran or was about to (out_of_memory)")


async def test_a_death_without_an_event_is_seen_when_the_connection_breaks(house: House) -> None:
    name = await running(house)
    house.backend.instances[name].status = Status(state=InstanceState.EXITED, exit_code=1)
    house.controller.disconnect(name)
    await house.until(lambda: lost_lines(house, name))
    house.controller.finish_build(name, lost=True)
    await house.until(house.nothing_left)
    assert len(lost_lines(house, name)) == 1


async def test_a_broken_connection_ends_nothing_while_the_build_may_go_on(house: House) -> None:
    name = await running(house)
    house.controller.disconnect(name)
    await asyncio.sleep(0.05)
    house.controller.connect(name)
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
    assert lost_lines(house, name) == []


async def test_a_build_that_ended_with_its_connection_alone_is_told_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.lifecycle.ending._DEATH_S", 0.05)
    name = await running(house)
    house.controller.finish_build(name, lost=True)
    await house.until(house.nothing_left)
    (line,) = lost_lines(house, name)
    assert "its connection broke while its build ran" in line


async def test_an_outage_of_the_controller_delays_the_teardown_and_loses_nothing(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    house.controller.finish_build(name)
    house.controller.outage()
    await house.until(lambda: not house.backend.instances)
    assert name in house.controller.nodes
    house.controller.recover()
    await house.until(house.nothing_left)


async def test_a_refused_registration_ends_the_build_with_the_controllers_words(house: House) -> None:
    house.controller.refuse["register"] = ControllerError("main: the account lacks Agent/Create", code=403)
    house.controller.queue()
    await house.until(lambda: house.controller.failed)
    assert "Agent/Create" in house.controller.failed[0][2]


async def test_a_node_deleted_by_a_person_is_replaced(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    del house.controller.nodes[name]
    house.controller.show()
    house.controller.show()
    again = await house.agent(besides={name})
    assert again != name


async def test_without_the_bridge_the_node_is_barred_when_its_build_is_seen(
    make_house: Callable[..., House],
) -> None:
    house = make_house(FakeController(mode=BridgeMode.OFF))
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: house.controller.nodes[name].barred)
    house.controller.finish_build(name)
    await house.until(house.nothing_left)


async def test_without_the_bridge_a_second_build_that_slipped_in_keeps_its_agent(
    make_house: Callable[..., House],
) -> None:
    house = make_house(FakeController(mode=BridgeMode.OFF))
    one = house.controller.queue(job="one")
    name = await house.agent()
    house.controller.refuse["bar"] = ControllerError("busy", retryable=True)
    house.controller.connect(name)
    house.controller.start_build(name, one)
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    house.controller.finish_build(name)
    two = house.controller.queue(job="two")
    second = await house.agent(besides={name})
    house.controller.start_build(name, two)
    house.controller.refuse.clear()
    house.controller.show()
    await house.until(lambda: house.controller.nodes[name].barred)
    await house.until(lambda: second not in house.desk.agents)
    assert state(house, name) is AgentState.RUNNING
    house.controller.finish_build(name)
    await house.until(house.nothing_left)


async def test_without_the_bridge_two_agents_swap_builds_when_one_takes_the_others(
    make_house: Callable[..., House],
) -> None:
    house = make_house(FakeController(mode=BridgeMode.OFF))
    one = house.controller.queue(job="one")
    first = await house.agent()
    two = house.controller.queue(job="two")
    second = await house.agent(besides={first})
    house.controller.connect(first)
    house.controller.start_build(first, two)
    await house.until(lambda: house.desk.agents[first].agent.request == two.key)
    assert house.desk.agents[second].agent.request == one.key
    house.controller.connect(second)
    house.controller.start_build(second, one)
    house.controller.finish_build(first)
    house.controller.finish_build(second)
    await house.until(house.nothing_left)
    assert len(house.controller.registered) == 2


async def test_a_pipeline_comes_back_to_its_agent_after_a_restart_of_the_controller(house: House) -> None:
    house.controller.queue(kind=ItemKind.PIPELINE)
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    house.controller.restart()
    await house.until(lambda: house.controller.nodes[name].view.known)
    for _ in range(4):
        house.controller.show()
    house.controller.connect(name)
    resumed = house.controller.queue(label=name, kind=ItemKind.PIPELINE)
    house.controller.start_build(name, resumed)
    house.controller.show()
    await house.until(lambda: house.desk.agents[name].facts.resume_until is None)
    assert state(house, name) is AgentState.RUNNING
    house.controller.finish_build(name)
    await house.until(house.nothing_left)


async def test_without_the_bridge_a_closed_agent_is_opened_for_its_own_pipeline_and_for_nobody_else(
    make_house: Callable[..., House],
) -> None:
    house = make_house(FakeController(mode=BridgeMode.OFF))
    house.controller.queue(job="app/1", kind=ItemKind.PIPELINE)
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: house.controller.nodes[name].barred)
    house.controller.restart()
    house.controller.connect(name)
    house.controller.queue(label=name, job="nosy")
    house.controller.queue(label=name, job="nosy/1", kind=ItemKind.PIPELINE)
    for _ in range(4):
        house.controller.show()
    await house.until(lambda: house.desk.agents[name].facts.online)
    assert house.controller.nodes[name].barred
    house.controller.queue(label=name, job="app/1", kind=ItemKind.PIPELINE)
    house.controller.show()
    await house.until(lambda: not house.controller.nodes[name].barred)


async def test_a_freestyle_build_that_died_with_the_controller_frees_its_agent(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: state(house, name) is AgentState.RUNNING)
    house.controller.restart()
    for _ in range(4):
        house.controller.show()
    await house.until(house.nothing_left)


async def test_nothing_is_started_for_an_agent_port_that_is_disabled(make_house: Callable[..., House]) -> None:
    house = make_house(transport="tcp", retries=0)
    house.controller.port_for_agents = AgentPort(host="c", port=None)
    house.controller.queue()
    await house.until(lambda: house.controller.failed)
    assert house.controller.failed[0][1] == "connect_timeout"
    assert "no TCP port for agents" in house.controller.failed[0][2]
    assert house.controller.registered == []


async def test_an_agent_port_that_cannot_be_reached_is_named(make_house: Callable[..., House]) -> None:
    house = make_house(transport="tcp", retries=0, timeouts={"connect": "1s"})
    house.controller.port_for_agents = AgentPort(host="c", port=50000, problem="c:50000 cannot be reached from here")
    house.controller.queue()
    await house.until(lambda: house.controller.failed)
    assert house.controller.failed[0][2] == (
        "the agent did not connect to the controller's port for agents, c:50000; c:50000 cannot be reached from here, "
        "within 1 s"
    )
