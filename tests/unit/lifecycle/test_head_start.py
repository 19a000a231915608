"""Builds that a static node or another cloud could serve as well."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from provisioner.lifecycle.outlook import Outlook
from provisioner.model.errors import ControllerError
from tests.unit.lifecycle.conftest import House


async def test_without_a_head_start_nobody_is_asked_and_an_agent_comes_at_once(house: House) -> None:
    house.controller.others_serve = True
    house.controller.refuse["others"] = ControllerError("asked")
    house.controller.queue()
    await house.agent()


async def test_a_build_that_others_could_serve_waits_for_them_and_says_so(make_house: Callable[..., House]) -> None:
    house = make_house(head_start="10m")
    house.controller.others_serve = True
    item = house.controller.queue()
    await house.until(lambda: any(r.not_before for r in house.desk.book))
    house.engine.planner.plan()
    assert not house.desk.agents
    (reason,) = Outlook(house.engine).explain_item(item.key.queue_id).reasons
    assert reason.startswith("another node or a cloud could serve it and has a head start; an agent is started in ")
    house.clock.shift = timedelta(seconds=601)
    house.desk.plan_again.set()
    await house.agent()


async def test_a_build_that_the_other_node_took_gets_no_agent(make_house: Callable[..., House]) -> None:
    house = make_house(head_start="10m")
    house.controller.others_serve = True
    item = house.controller.queue()
    await house.until(lambda: any(r.not_before for r in house.desk.book))
    house.controller.take_elsewhere(item)
    await house.until(lambda: not list(house.desk.book))
    assert not house.controller.registered


async def test_where_nobody_else_could_serve_it_there_is_nothing_to_wait_for(make_house: Callable[..., House]) -> None:
    house = make_house(head_start="1h")
    house.controller.queue()
    await house.agent()


async def test_a_controller_that_cannot_say_delays_nothing(make_house: Callable[..., House]) -> None:
    house = make_house(head_start="1h")
    house.controller.others_serve = True
    house.controller.refuse["others"] = ControllerError("the bridge is gone")
    house.controller.queue()
    await house.agent()
