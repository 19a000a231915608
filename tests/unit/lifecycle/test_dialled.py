"""Agents that the controller dials: in which order things happen, and what a failure of each says."""

from __future__ import annotations

from collections.abc import Callable

from provisioner.controller.port import Launcher
from provisioner.lifecycle.dialling import DIALLED_MARK
from provisioner.model.agent import AgentState
from provisioner.model.errors import ControllerError, LaunchError, Reason
from tests.unit.lifecycle.conftest import House

MakeHouse = Callable[..., House]


async def test_the_controller_is_told_only_after_the_instance_was_met(make_house: MakeHouse) -> None:
    house = make_house(transport="ssh")
    house.dialled.looks = 3
    house.controller.queue()
    name = await house.agent()
    await house.until(lambda: name in house.controller.dialled)
    assert house.controller.nodes[name].order.launcher is Launcher.SSH
    assert len(house.dialled.met) == 4
    dial = house.controller.dialled[name]
    assert (dial.host, dial.port, dial.host_key) == ("10.0.0.1", 22022, f"ssh-ed25519 {name}")
    assert house.backend.instances[name].order.listens
    await house.until(lambda: DIALLED_MARK in house.desk.agents[name].agent.marks)
    house.controller.connect(name)
    house.controller.start_build(name)
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
    assert house.controller.entries == set()
    assert name in house.dialled.parted
    record = house.store.agent(name)
    assert record is not None
    assert "key of" not in repr(record)
    assert "secret" not in repr(record.ids)


async def test_a_wrong_host_key_ends_the_build_at_once(make_house: MakeHouse) -> None:
    house = make_house(transport="ssh", retries=3)
    house.dialled.fail_with = LaunchError("another host key", reason=Reason.HOST_KEY_MISMATCH)
    house.controller.queue()
    await house.until(lambda: house.controller.failed)
    (_, reason, message, _), *more = house.controller.failed
    assert (reason, message, more) == ("host_key_mismatch", "another host key", [])
    assert house.controller.dialled == {}
    await house.until(house.nothing_left)


async def test_an_instance_that_is_never_met_is_a_connect_time_out_with_the_reason(make_house: MakeHouse) -> None:
    house = make_house(transport="ssh", retries=0, timeouts={"connect": "1s"})
    house.dialled.looks = 10**6
    house.controller.queue()
    await house.until(lambda: house.controller.failed)
    assert house.controller.failed[0][1:3] == ("connect_timeout", "nothing answers within 1 s")
    assert house.controller.dialled == {}


async def test_what_the_controller_said_is_told_when_it_gives_up(make_house: MakeHouse) -> None:
    house = make_house(transport="ssh", retries=0, timeouts={"connect": "1s"})
    house.controller.queue()
    name = await house.agent()
    house.controller.launch_log[name] = ("[SSH] Authentication failed.",)
    await house.until(lambda: house.controller.failed)
    assert house.controller.failed[0][1] == "connect_timeout"
    assert any("[SSH] Authentication failed." in text for _, _, text in house.store.lines(name))
    await house.until(house.nothing_left)
    assert house.controller.entries == set()


async def test_a_controller_that_cannot_be_told_fails_the_launch_with_its_words(make_house: MakeHouse) -> None:
    house = make_house(transport="ssh", retries=0)
    house.controller.refuse["dial"] = ControllerError("the plugin is not installed", code=412)
    house.controller.queue()
    await house.until(lambda: house.controller.failed)
    assert "the plugin is not installed" in house.controller.failed[0][2]
    await house.until(house.nothing_left)


async def test_killed_before_it_was_told_the_next_sidecar_tells_it_with_the_same_keys(make_house: MakeHouse) -> None:
    house = make_house(transport="ssh")
    house.dialled.looks = 10**6
    house.controller.queue()
    name = await house.agent()
    await house.until(lambda: house.dialled.met)
    await house.kill()
    before = {one.secret for one in house.dialled.met}
    house.dialled.looks = 0
    house.revive()
    await house.until(lambda: name in house.controller.dialled)
    assert {house.controller.dialled[name].private_key.removeprefix("key of ")} == before
    house.controller.connect(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.IDLE)


async def test_an_entry_that_no_record_knows_is_swept_when_two_passes_saw_it(make_house: MakeHouse) -> None:
    house = make_house(transport="ssh")
    house.controller.entries |= {"maven-lost"}
    sweep = house.engine.credential_sweeps["main"]
    house.controller.queue()
    name = await house.agent()
    await house.until(lambda: name in house.controller.entries)
    assert not await sweep.look()
    assert [(o.kind, o.id, o.passes) for o in sweep.orphans] == [("credentials", "maven-lost", 1)]
    assert "maven-lost" in house.controller.entries
    assert not await sweep.look()
    assert house.controller.entries == {name}
    assert await sweep.look()
