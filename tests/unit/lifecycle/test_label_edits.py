"""A job's label that is edited while its build waits: Jenkins goes by the new one at once, and so do we."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from provisioner.controller.port import BridgeMode
from provisioner.model.agent import AgentState
from provisioner.model.errors import LaunchError, Reason
from provisioner.model.queue import QueueItem
from provisioner.model.request import RequestState
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House

OTHER = {"name": "other", "labels": ["other", "maven2"], "providers": ["box"], "image": "other:1"}


def edit(house: House, item: QueueItem, label: str | None) -> None:
    """Somebody saves the job with another label; the next look at the queue shows it."""
    house.controller.items[item.key.queue_id] = replace(item, label=label)
    house.controller.show()


def template(house: House, *, besides: str = "") -> str | None:
    """Of the agent that comes."""
    return next((t.agent.template for n, t in house.desk.agents.items() if n != besides), None)


async def test_a_mended_label_is_served(house: House) -> None:
    item = house.controller.queue(label="mavn")
    await house.until(lambda: house.desk.book.unserved)
    edit(house, item, "maven")
    await house.agent()
    assert not house.desk.book.unserved


async def test_an_agent_makes_way_for_one_that_its_build_asks_for_by_now(make_house: Callable[..., House]) -> None:
    house = make_house(more_templates=[OTHER])
    item = house.controller.queue(label="maven")
    name = await house.agent()
    house.controller.connect(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.IDLE)
    edit(house, item, "other")
    await house.until(lambda: template(house, besides=name) == "other")
    (request,) = house.desk.book
    assert (request.template, request.item.label, request.attempts) == ("other", "other", 0)
    assert house.store.lines(name)[-1][2].startswith("It is removed: its job asks for the label other by now")


async def test_a_build_that_no_template_serves_any_more_is_left_alone(house: House) -> None:
    item = house.controller.queue(label="maven")
    await house.agent()
    edit(house, item, None)
    await house.until(house.nothing_left)
    assert item.key in house.desk.book.unserved
    assert not house.controller.failed


async def test_an_agent_that_has_the_new_label_too_stays(house: House) -> None:
    item = house.controller.queue(label="maven")
    name = await house.agent()
    for label in ("maven || gradle", name, "maven||gradle"):
        edit(house, item, label)
        await house.until(lambda now=label: next(iter(house.desk.book)).item.label == now)  # type: ignore[misc]
        assert not house.desk.agents[name].doomed


async def test_an_edit_while_no_sidecar_looks_is_seen_by_the_next_one(make_house: Callable[..., House]) -> None:
    house = make_house(more_templates=[OTHER])
    item = house.controller.queue(label="maven")
    name = await house.agent()
    await house.kill()
    house.controller.items[item.key.queue_id] = replace(item, label="other")
    house.revive()
    await house.until(lambda: template(house, besides=name) == "other")


async def test_launches_that_failed_for_the_label_before_are_forgotten_on_disk_too(
    make_house: Callable[..., House],
) -> None:
    house = make_house(more_templates=[OTHER])
    house.backend.fail_with = LaunchError("the registry is down", reason=Reason.REGISTRY_ERROR)
    item = house.controller.queue(label="maven")
    await house.until(lambda: house.store.requests() and not house.desk.agents)
    house.backend.fail_with = None
    edit(house, item, "other")
    await house.until(lambda: template(house) == "other")
    assert house.store.requests() == []


async def test_a_build_that_has_just_started_on_an_agent_is_not_ended_by_an_edit(
    make_house: Callable[..., House],
) -> None:
    house = make_house(more_templates=[OTHER])
    item = house.controller.queue(label="maven")
    name = await house.agent()
    house.controller.connect(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.IDLE)
    edit(house, item, "other")
    house.controller.start_build(name)  # the look at the queue is older than that
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.RUNNING)
    assert not house.desk.agents[name].doomed
    house.controller.finish_build(name)
    await house.until(house.nothing_left)


async def test_without_the_bridge_a_look_that_does_not_tell_the_label_is_no_edit(
    make_house: Callable[..., House],
) -> None:
    house = make_house(controller=FakeController(mode=BridgeMode.OFF), more_templates=[OTHER])
    item = house.controller.queue(label="maven")
    name = await house.agent()
    for said in (None, name):
        house.controller.items[item.key.queue_id] = replace(item, label=said, why="seen")
        await house.until(lambda: next(iter(house.desk.book)).item.why == "seen")
        house.controller.items[item.key.queue_id] = item
        await house.until(lambda: next(iter(house.desk.book)).item.why is None)
    (request,) = house.desk.book
    assert (request.state, request.agent, request.item.label) == (RequestState.SERVED, name, "maven")
    house.controller.items[item.key.queue_id] = replace(item, label="other")
    await house.until(lambda: template(house, besides=name) == "other")
