"""Providers that refuse for want of room, whatever their configuration says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from provisioner.lifecycle.operations import Operations
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.agent import AgentState
from provisioner.model.errors import NO_ROOM_STEP
from provisioner.web.sections import providers
from provisioner.web.shapes import provider_shape
from provisioner.web.views import View
from tests.unit.lifecycle.conftest import House

DEN = {"name": "den", "backend": "docker", "max_agents": 5}
BUILDS = 12


def connecting(house: House) -> list[str]:
    return [name for name, task in house.desk.agents.items() if task.agent.state is AgentState.CONNECTING]


async def test_what_waits_is_served_as_others_go_and_is_not_refused_again_and_again(
    make_house: Callable[..., House],
) -> None:
    """Twelve builds, ten agents by the configuration, and room for three: each that goes makes way for one."""
    house = make_house(retries=0)
    house.backend.fits = 3
    for number in range(BUILDS):
        house.controller.queue(job=f"j{number}")
    await house.until(lambda: house.backend.refused and len(connecting(house)) == 3 == len(house.desk.agents))
    refused = house.backend.refused
    waiting = [w for w in Outlook(house.engine).waiting() if w.reasons]
    assert len(waiting) == BUILDS - 3
    explained = Outlook(house.engine).explain_item(waiting[0].request.item.key.queue_id)
    assert explained.reasons == waiting[0].reasons == ("provider box is full (3 of 3 agents): no address is free",)
    assert explained.next_step.startswith(
        "an agent is started as soon as one of the 3 agents at box is gone or box is tried again at "
    )
    served = 0
    while served < BUILDS:
        await house.until(lambda left=BUILDS - served: len(connecting(house)) == min(3, left))  # type: ignore[misc]
        for name in connecting(house):
            house.controller.connect(name)
            house.controller.start_build(name)
            house.controller.finish_build(name)
            served += 1
            await house.until(lambda name=name: name not in house.desk.agents)  # type: ignore[misc]
    assert house.backend.refused == refused, "room was counted, and no launch began for which there was none"
    assert house.backend.most == 3
    assert not house.controller.failed
    assert not house.desk.breakers.conditions()


async def test_the_next_provider_takes_what_one_refuses_at_once(make_house: Callable[..., House]) -> None:
    house = make_house(retries=0, more_providers=[DEN], providers=["box", "den"])
    house.backend.fits = 1
    for number in range(4):
        house.controller.queue(job=f"j{number}")
    await house.until(lambda: len(connecting(house)) == 4)
    where = sorted(house.desk.agents[name].agent.provider for name in connecting(house))
    assert where == ["box", "den", "den", "den"]
    assert not house.controller.failed


async def test_the_build_is_told_that_it_is_no_fault_of_its_own(make_house: Callable[..., House]) -> None:
    house = make_house(retries=0)
    house.backend.fits = 0
    house.controller.queue()
    await house.until(lambda: house.backend.refused)
    await house.until(lambda: any("waits for room" in line for _, lines in house.controller.told for line in lines))
    said = [line for name, lines in house.controller.told if name is None for line in lines]
    assert any(line.startswith("Launch failed: the engine cannot start maven-") for line in said)
    assert f"What to do: {NO_ROOM_STEP}" in said
    (request,) = house.desk.book
    assert request.attempts == 0


async def test_after_the_pause_one_launch_tries_it_and_a_resume_does_so_at_once(
    make_house: Callable[..., House],
) -> None:
    house = make_house(retries=0)
    house.backend.fits = 0
    for number in range(4):
        house.controller.queue(job=f"j{number}")
    await house.until(lambda: house.backend.refused and not house.desk.agents)
    refused = house.backend.refused
    house.engine.planner.plan()
    assert not house.desk.agents, "it is left alone for a while"
    house.clock.shift = timedelta(seconds=11)
    house.engine.planner.plan()
    assert len(house.desk.agents) == 1, "one launch tries it"
    await house.until(lambda: house.backend.refused == refused + 1 and not house.desk.agents)
    house.backend.fits = None
    house.engine.planner.plan()
    assert not house.desk.agents
    Operations(house.engine).resume("box")
    await house.until(lambda: len(connecting(house)) == 4)


async def test_a_full_provider_says_so_in_the_api_and_on_the_dashboard(make_house: Callable[..., House]) -> None:
    house = make_house(retries=0)
    house.backend.fits = 1
    for number in range(3):
        house.controller.queue(job=f"j{number}")
    await house.until(lambda: house.backend.refused and len(connecting(house)) == 1 == len(house.desk.agents))
    view = View(house.engine)
    handle = house.desk.providers["box"]
    told = str(provider_shape(handle, view.outlook.plant(), view.outlook.tally())["refuses"])
    assert told.startswith("no address is free; it gets at most 1 agent until ")
    assert "no address is free; it gets at most 1 agent until " in str(providers(view))
