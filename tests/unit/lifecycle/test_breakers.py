"""Launches that fail again and again at one provider."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from provisioner.lifecycle.operations import Operations
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.errors import LaunchError, NoRoom, Reason
from provisioner.web.population import population
from tests.unit.lifecycle.conftest import House

BROKEN = LaunchError("no space on the disk", reason=Reason.DISK_FULL)
DEN = {"name": "den", "backend": "docker", "max_agents": 5}


def breaker(house: House) -> bool:
    return ("box", "maven", True) in list(population(house.engine).breakers)


async def opened(house: House) -> None:
    house.backend.fail_with = BROKEN
    house.controller.queue()
    await house.until(lambda: breaker(house), "the breaker is open")
    await house.until(house.nothing_left)


async def test_three_failures_in_a_row_stop_the_launches_and_the_request_waits_with_the_reason(
    make_house: Callable[..., House],
) -> None:
    house = make_house(retries=9)
    await opened(house)
    assert len(house.controller.registered) == 3
    (waiting,) = Outlook(house.engine).waiting()
    (reason,) = waiting.reasons
    assert reason.startswith("provider box is, for template maven, cooling down until ")
    assert reason.endswith("UTC: 3 launches in a row failed, the last one: no space on the disk (disk_full)")
    explained = Outlook(house.engine).explain_item(waiting.request.item.key.queue_id)
    assert explained.reasons == waiting.reasons


async def test_after_the_pause_one_launch_probes_and_its_success_lets_all_go_on(
    make_house: Callable[..., House],
) -> None:
    house = make_house(retries=9)
    await opened(house)
    for _ in range(4):
        house.controller.queue()
    house.backend.fail_with = None
    house.clock.shift = timedelta(seconds=121)
    house.desk.plan_again.set()
    probe = await house.agent()
    await house.until(lambda: len(list(house.desk.book)) == 5)
    house.engine.planner.plan()
    assert list(house.desk.agents) == [probe]
    house.controller.connect(probe)
    await house.until(lambda: len(house.desk.agents) == 5)
    assert not breaker(house)


async def test_a_failed_probe_doubles_the_pause(make_house: Callable[..., House]) -> None:
    house = make_house(retries=9)
    await opened(house)
    house.clock.shift = timedelta(seconds=121)
    house.desk.plan_again.set()
    await house.until(lambda: len(house.controller.registered) == 4 and breaker(house))
    await house.until(house.nothing_left)
    house.clock.shift = timedelta(seconds=121 + 230)
    house.engine.planner.plan()
    assert not house.desk.agents


async def test_an_open_breaker_outlives_the_process(make_house: Callable[..., House]) -> None:
    house = make_house(retries=9)
    await opened(house)
    await house.kill()
    house.revive()
    await house.until(lambda: list(house.desk.book))
    house.engine.planner.plan()
    assert breaker(house)
    assert len(house.controller.registered) == 3


async def test_resume_closes_it(make_house: Callable[..., House]) -> None:
    house = make_house(retries=9)
    await opened(house)
    house.backend.fail_with = None
    Operations(house.engine).resume("box")
    await house.agent()
    assert not breaker(house)


async def test_another_version_of_the_template_starts_anew(make_house: Callable[..., House]) -> None:
    house = make_house(retries=9)
    await opened(house)
    house.desk.breakers.reconfigure(house.desk.versions())
    assert breaker(house)
    house.desk.breakers.reconfigure({"maven": "another"})
    assert not breaker(house)


@pytest.mark.parametrize(
    "error",
    [
        LaunchError("no", reason=Reason.IMAGE_NOT_FOUND),
        LaunchError("no", reason=Reason.PROVIDER_UNREACHABLE),
        NoRoom("the quota is used up", reason=Reason.CREATE_REJECTED),
    ],
    ids=["own fault", "outage", "quota"],
)
async def test_a_builds_own_fault_an_outage_or_a_quota_opens_nothing(house: House, error: LaunchError) -> None:
    house.backend.fail_with = error
    for number in range(4):
        house.controller.queue(job=f"j{number}")
    await house.until(lambda: len(house.controller.registered) == 4)
    await house.until(house.nothing_left)
    assert not house.desk.breakers.conditions()


async def test_a_quota_refusal_waits_and_is_no_failed_attempt(make_house: Callable[..., House]) -> None:
    house = make_house(retries=0)
    house.backend.fail_with = NoRoom("the quota is used up", reason=Reason.CREATE_REJECTED)
    house.controller.queue()
    await house.until(lambda: any(r.world_faults for r in house.desk.book))
    (request,) = house.desk.book
    assert request.attempts == 0
    assert not house.controller.failed


async def test_a_launch_that_failed_is_tried_at_the_next_provider(make_house: Callable[..., House]) -> None:
    house = make_house(more_providers=[DEN], providers=["box", "den"])
    house.backend.fail_with = BROKEN
    house.controller.queue()
    second = await house.agent()
    assert house.desk.agents[second].agent.provider == "den"
    assert not house.controller.failed
