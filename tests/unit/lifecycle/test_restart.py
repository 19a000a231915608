"""The sidecar dies at any moment; the next one adopts or removes everything, and loses no build."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest

from provisioner.lifecycle.operations import Operations
from provisioner.model.agent import AgentState
from provisioner.model.errors import LaunchError, Reason
from tests.unit.lifecycle.conftest import House

STOPS = ["planned", "registering", "starting", "connecting", "idle", "running", "finished", "removing"]


async def play(house: House, name: str) -> None:
    """Jenkins goes on whether anybody looks or not."""
    node = house.controller.nodes.get(name)
    if node is None or name not in house.backend.instances:
        return
    if not node.view.online and not node.view.finished:
        house.controller.connect(name)
        if node.order.request and node.order.request.key.queue_id in house.controller.items:
            house.controller.start_build(name)


@pytest.mark.parametrize("stop", STOPS)
async def test_killed_in_each_state_the_build_still_runs_exactly_once(
    house: House, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from provisioner.lifecycle.agent_task import AgentTask

    class Killed(BaseException):
        pass

    reached: list[str] = []
    original = AgentTask.move

    def move(task: AgentTask, to: AgentState) -> None:
        original(task, to)
        if to.value == stop:
            reached.append(task.agent.name)
            raise Killed

    item = house.controller.queue()
    if stop == "planned":
        await house.until(lambda: house.desk.agents)
        await house.kill()
    else:
        monkeypatch.setattr(AgentTask, "move", move)
        house.desk.end_errands  # noqa: B018
        import asyncio

        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)

        def there() -> bool:
            for name in tuple(house.controller.nodes):
                node = house.controller.nodes[name]
                running = name in house.backend.instances
                if running and not node.view.online and not node.view.finished:
                    house.controller.connect(name)
                if running and node.view.online and item.key.queue_id in house.controller.items:
                    house.controller.start_build(name)
                if node.view.busy and stop in ("finished", "removing"):
                    house.controller.finish_build(name)
            return bool(reached)

        await house.until(there, f"an agent is {stop}")
        monkeypatch.undo()
        await house.kill()
    house.revive()
    taken = []

    def done() -> bool:
        for name in tuple(house.controller.nodes):
            node = house.controller.nodes[name]
            running = name in house.backend.instances
            if running and not node.view.online and not node.view.finished:
                house.controller.connect(name)
            if running and node.view.online and item.key.queue_id in house.controller.items:
                house.controller.start_build(name)
                taken.append(name)
            if node.view.busy:
                house.controller.finish_build(name)
        return item.key.queue_id not in house.controller.items and house.nothing_left()

    await house.until(done, "the build ran and nothing is left")
    assert len(set(taken)) <= 1
    assert len(set(house.controller.registered)) == 1, "nothing was doubled"


async def test_a_failure_that_was_not_told_yet_is_told_after_the_restart(house: House) -> None:
    from provisioner.model.errors import ControllerError

    house.backend.fail_with = LaunchError("no such image", reason=Reason.IMAGE_NOT_FOUND)
    house.controller.refuse["fail"] = ControllerError("timed out", retryable=True)
    house.controller.queue()
    await house.until(lambda: any(r.state.value == "failing" for r in house.desk.book))
    await house.kill()
    house.controller.refuse.clear()
    house.revive()
    await house.until(lambda: house.controller.failed)
    assert house.controller.failed[0][1] == "image_not_found"
    await house.until(house.nothing_left)
    assert house.store.requests() == []


async def test_an_item_cancelled_while_the_sidecar_was_away_leaves_nothing(house: House) -> None:
    item = house.controller.queue()
    await house.agent()
    await house.kill()
    house.controller.cancel(item)
    house.revive()
    await house.until(house.nothing_left)


async def test_a_build_that_ended_while_the_sidecar_was_away_leaves_nothing(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: house.desk.agents[name].agent.state is AgentState.RUNNING)
    await house.kill()
    house.controller.finish_build(name)
    house.revive()
    await house.until(house.nothing_left)


def rewrite(house: House, name: str, record: str | None = None) -> None:
    """What the next release would have written of an agent; or this."""
    with closing(sqlite3.connect(house.settings.state_file, isolation_level=None)) as db:
        (text,) = db.execute("SELECT record FROM agents WHERE name = ?", (name,)).fetchone()
        data = json.loads(text)
        data["spec"] |= {
            "key_of_the_next_release": 1,
            "timeouts": {**data["spec"]["timeouts"], "nap": 5, "connect": 77},
        }
        db.execute("UPDATE agents SET record = ? WHERE name = ?", (record or json.dumps(data), name))


async def test_an_agent_that_the_next_release_planned_is_looked_after_until_its_build_is_over(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    await house.kill()
    rewrite(house, name)
    house.revive()
    task = house.desk.agents[name]
    assert task.template.image == "maven:3.9"
    assert task.template.timeouts.connect_s == 77, "the rest is as it was planned"
    house.controller.connect(name)
    await house.until(lambda: task.agent.state is AgentState.IDLE)
    house.controller.start_build(name)
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
    assert house.controller.registered == [name]


async def test_nothing_is_started_by_a_template_of_which_only_a_part_is_understood(house: House) -> None:
    house.backend.gate = asyncio.Event()
    item = house.controller.queue()
    await house.until(lambda: house.backend.instances)
    (name,) = house.desk.agents
    await house.kill()
    rewrite(house, name)
    house.backend.gate.set()
    house.revive()
    other = await house.agent(besides={name})
    await house.until(lambda: list(house.desk.agents) == [other])
    assert "cannot be read by this release; at: key_of_the_next_release" in Operations(house.engine).agent(name).detail
    assert house.desk.agents[other].agent.request == item.key
    assert next(iter(house.desk.book)).attempts == 0


async def test_an_agent_whose_record_cannot_be_read_is_an_orphan_that_says_so(house: House) -> None:
    house.controller.queue()
    name = await house.agent()
    await house.kill()
    rewrite(house, name, "{}")
    house.revive()
    await house.until(lambda: Operations(house.engine).orphans())
    assert {orphan.agent for orphan in Operations(house.engine).orphans()} == {name}
    assert "the record of its agent cannot be read" in Operations(house.engine).orphans()[0].reason
    assert house.store.agent(name) is None
    assert house.store.gone_agents() == []
