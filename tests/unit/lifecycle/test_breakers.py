"""Launches that fail again and again at one provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from provisioner.lifecycle import agent_task
from provisioner.lifecycle.operations import Operations
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.errors import LaunchError, NoRoom, Reason
from provisioner.records.store import StoreError
from provisioner.sidecar.reload import apply_settings
from provisioner.web.population import population
from tests.unit.lifecycle.conftest import House, settings

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


async def connecting(house: House, number: int) -> list[str]:
    for _ in range(number):
        house.controller.queue()
    await house.until(lambda: len(house.backend.instances) == number)
    await house.until(lambda: all(t.agent.state.value == "connecting" for t in house.desk.agents.values()))
    return list(house.desk.agents)


async def test_what_becomes_of_agents_of_the_old_version_says_nothing_about_the_mended_one(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    house = make_house(retries=9)
    names = await connecting(house, 3)
    apply_settings(house.engine, settings(tmp_path, retries=9, image="maven:3.9-mended"))
    for name in names:
        house.backend.end(name)
    await house.until(lambda: not set(names) & set(house.desk.agents))
    assert not house.desk.breakers.conditions()
    house.backend.fail_with = BROKEN
    for _ in range(3):
        house.controller.queue()
    await house.until(lambda: breaker(house), "those of the new one count")


async def test_an_agent_of_the_old_version_that_connects_closes_nothing(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    house = make_house(retries=9)
    (old,) = await connecting(house, 1)
    apply_settings(house.engine, settings(tmp_path, retries=9, image="maven:4-broken"))
    await opened_beside(house, old)
    house.controller.connect(old)
    await house.until(lambda: house.desk.agents[old].agent.state.value == "idle")
    assert breaker(house)


async def opened_beside(house: House, running: str) -> None:
    house.backend.fail_with = BROKEN
    house.controller.queue()
    await house.until(lambda: breaker(house), "the breaker is open")
    await house.until(lambda: list(house.desk.agents) == [running])


async def test_over_a_restart_too_agents_of_the_old_version_do_not_count(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    house = make_house(retries=9)
    names = await connecting(house, 3)
    await house.kill()
    house.settings = settings(tmp_path, retries=9, image="maven:3.9-mended")
    house.revive()
    await house.kill()
    house.revive()  # what the first start found out holds at the second
    for name in names:
        house.backend.end(name)
    await house.until(lambda: not set(names) & set(house.desk.agents))
    assert not house.desk.breakers.conditions()


async def test_a_launch_that_failed_counts_once_however_often_it_takes_to_write_that_down(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_task, "_RETRY_FIRST_S", 0.01)
    house = make_house(retries=9)
    (name,) = await connecting(house, 1)
    run, refused = house.store._run, [1, 2, 3]

    def full(sql: str, values: Sequence[object] = (), *, rows: Sequence[Sequence[object]] | None = None) -> int:
        if sql == "COMMIT" and refused:
            refused.pop()
            raise StoreError("the disk is full", retryable=True)
        return run(sql, values, rows=rows)

    monkeypatch.setattr(house.store, "_run", full)
    house.backend.end(name)
    await house.until(lambda: name not in house.desk.agents)
    assert not refused
    assert [breaker.failures for breaker in house.desk.breakers._of.values()] == [1]
    assert [request.attempts for request in house.store.requests()] == [1]
    said = [text for _, _, text in house.store.lines(name) if text.startswith("Launch failed")]
    assert len(said) == 1
    await house.until(lambda: any("Trying again" in line for _, lines in house.controller.told for line in lines))
    told = [line for _, lines in house.controller.told for line in lines if line.startswith("Launch failed")]
    assert len(told) == 1
    metrics = house.desk.metrics.render(population(house.engine)).decode()
    assert 'jenkins_provisioner_errors_total{reason="agent_exited"} 1.0' in metrics


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
