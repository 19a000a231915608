"""A new configuration, put in force or found by the next process: no request keeps a template of the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from provisioner.capacity.plant import StaticRoom
from provisioner.lifecycle.operations import Operations
from provisioner.model.errors import LaunchError, Reason
from provisioner.sidecar.reload import apply_settings
from tests.unit.lifecycle.conftest import House, settings

OTHER = {"name": "other", "labels": ["maven"], "providers": ["box"], "image": "other:1", "priority": 10}


async def test_a_template_renamed_while_its_agent_comes_serves_the_build_when_that_goes(
    house: House, tmp_path: Path
) -> None:
    house.controller.queue()
    name = await house.agent()
    apply_settings(house.engine, settings(tmp_path, name="maven2"))
    assert not house.desk.agents[name].doomed, "an agent keeps the template it started with"
    Operations(house.engine).delete_now(name)
    assert house.desk.agents[await house.agent(besides={name})].agent.template == "maven2"


async def test_a_template_that_outranks_it_makes_the_next_agent_from_its_own_image(
    house: House, tmp_path: Path
) -> None:
    house.controller.queue()
    name = await house.agent()
    apply_settings(house.engine, settings(tmp_path, more_templates=[OTHER]))
    Operations(house.engine).delete_now(name)
    agent = house.desk.agents[await house.agent(besides={name})].agent
    assert (agent.template, agent.spec["name"], agent.spec["image"]) == ("other", "other", "other:1")
    (request,) = house.desk.book
    assert request.template == "other"


async def test_a_build_whose_template_goes_while_its_agent_comes_is_left_alone_when_that_goes(
    house: House, tmp_path: Path
) -> None:
    item = house.controller.queue()
    name = await house.agent()
    apply_settings(house.engine, settings(tmp_path, name="gradle", labels=["gradle"]))
    Operations(house.engine).delete_now(name)
    await house.until(house.nothing_left)
    assert list(house.desk.book.unserved) == [item.key]
    apply_settings(house.engine, settings(tmp_path))
    await house.agent()


async def test_a_build_that_is_tried_again_finds_its_template_renamed_by_a_restart(
    house: House, tmp_path: Path
) -> None:
    house.backend.fail_with = LaunchError("the registry is down", reason=Reason.REGISTRY_ERROR)
    house.controller.queue()
    await house.until(lambda: house.store.requests() and not house.desk.agents)
    await house.kill()
    house.backend.fail_with = None
    house.settings = settings(tmp_path, name="maven2")
    house.clock.shift = timedelta(seconds=300)
    house.revive()
    name = await house.agent()
    assert house.desk.agents[name].agent.template == "maven2"


async def test_an_agent_whose_template_a_restart_no_longer_has_still_serves_its_build(
    house: House, tmp_path: Path
) -> None:
    house.controller.queue()
    name = await house.agent()
    await house.kill()
    house.settings = settings(tmp_path, name="gradle", labels=["gradle"])
    house.revive()
    await house.until(lambda: len(house.desk.book) == 1)
    house.controller.connect(name)
    house.controller.start_build(name)
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
    assert house.controller.registered == [name]


async def test_a_build_has_the_retries_of_the_template_that_its_agent_started_with(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    house = make_house(retries=2)
    house.controller.queue()
    seen: set[str] = set()
    for number in range(3):
        name = await house.agent(besides=seen)
        seen.add(name)
        apply_settings(house.engine, settings(tmp_path, name=f"maven{number}", retries=2))
        assert not house.controller.failed
        house.backend.end(name)
    await house.until(lambda: house.controller.failed)
    assert len(seen) == 3


async def look_at_static_nodes(house: House, looked: asyncio.Event) -> None:
    """As if the provider had static nodes, which are looked at for every new request."""

    async def look() -> None:
        looked.set()

    house.desk.providers["box"].look = look
    house.desk.providers["box"].room = lambda: StaticRoom(free=10, reason="")
    house.engine.planner.reconfigure()


async def test_with_static_nodes_too_a_restart_may_rename_the_template_of_a_build_that_is_tried_again(
    house: House, tmp_path: Path
) -> None:
    looked = asyncio.Event()
    house.backend.fail_with = LaunchError("the registry is down", reason=Reason.REGISTRY_ERROR)
    house.controller.queue()
    await house.until(lambda: house.store.requests() and not house.desk.agents)
    (stored,) = house.store.requests()
    await house.kill()
    house.settings = settings(tmp_path, name="maven2")
    house.revive()
    await look_at_static_nodes(house, looked)
    await house.until(looked.is_set)
    await house.until(lambda: next(iter(house.desk.book)).not_before == stored.not_before)
    (request,) = house.desk.book
    assert (request.template, request.world_faults) == ("maven2", 1), "and it waits for as long as it was told"
