"""The API over a real engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provisioner.backends.contract import InstanceState, Status
from provisioner.lifecycle.operations import restore_drained
from provisioner.lifecycle.sweep import PASSES
from tests.fakes.backend import FakeInstance
from tests.unit.lifecycle.conftest import settings
from tests.unit.web.conftest import Served, gone, running


async def test_an_agent_is_listed_with_its_job_and_phases_and_stays_as_history(served: Served) -> None:
    name = await running(served, job="app")
    [agent] = (await served.ask("/api/v1/agents"))["agents"]
    assert agent["name"] == name
    assert (agent["state"], agent["template"], agent["provider"], agent["job"]) == ("running", "maven", "box", "app")
    assert agent["build_url"] == "job/app/1/"
    assert set(agent["phases_s"]) == {"planned", "registering", "starting", "connecting", "idle"}
    assert await served.ask(f"/api/v1/agents/{name}") == {**agent, "age_s": pytest.approx(agent["age_s"], abs=5)}
    served.house.controller.finish_build(name)
    await gone(served, name)
    assert (await served.ask("/api/v1/agents"))["agents"] == []
    [old] = (await served.ask("/api/v1/agents?gone=5"))["gone"]
    assert (old["name"], old["state"]) == (name, "removed")
    assert (await served.ask(f"/api/v1/agents/{name}"))["state"] == "removed"


async def test_an_unknown_name_is_told_with_what_was_meant(served: Served) -> None:
    name = await running(served)
    told = await served.ask(f"/api/v1/agents/{name[:-1]}", status=404)
    assert name in told["error"]
    for path in ("/api/v1/agents/x/log", "/api/v1/agents/x/log?follow=1"):
        assert "there is no agent 'x'" in (await served.ask(path, status=404))["error"]
    assert "did you mean box?" in (await served.ask("/api/v1/providers/bx/drain", "POST", status=404))["error"]
    assert "there is box" in (await served.ask("/api/v1/providers/zzz/drain", "POST", status=404))["error"]


async def test_the_log_comes_as_text_or_as_json(served: Served) -> None:
    name = await running(served)
    text = await served.ask(f"/api/v1/agents/{name}/log")
    stamp, _, first = text.splitlines()[0].partition(" ")
    assert first.startswith(f"Template maven on provider box serves this build with the agent {name}")
    assert stamp.endswith("Z")
    told = await served.ask(f"/api/v1/agents/{name}/log", headers={"Accept": "application/json"})
    assert [line["n"] for line in told["lines"]] == list(range(len(told["lines"])))
    since = await served.ask(f"/api/v1/agents/{name}/log?since=1", headers={"Accept": "application/json"})
    assert since["lines"] == told["lines"][1:]


async def events(answer: Any) -> list[tuple[str, dict[str, Any], str | None]]:
    """Every event of a stream until it ends: kind, data, id."""
    found, kind, number = [], "", None
    async for raw in answer.content:
        key, _, value = raw.decode().rstrip("\n").partition(": ")
        if key == "event":
            kind = value
        elif key == "id":
            number = value
        elif key == "data":
            found.append((kind, json.loads(value), number))
            number = None
    return found


async def test_a_followed_log_shows_new_lines_and_ends_with_the_agent(served: Served) -> None:
    name = await running(served)
    async with served.bare.get(f"/api/v1/agents/{name}/log?follow=1", headers=served.bearer) as answer:
        assert answer.content_type == "text/event-stream"
        assert (await answer.content.readline()) == b"id: 0\n"
        served.house.desk.agents[name].log.say("a line said while somebody follows: ünï ☃ \x85 <b>")
        served.house.controller.finish_build(name)
        seen = await events(answer)
    texts = [data["text"] for kind, data, _ in seen if kind == "line"]
    assert "a line said while somebody follows: ünï ☃ " in texts
    assert texts[-1].startswith(f"Agent {name} is done")
    assert seen[-1] == ("end", {"state": "removed", "reason": None}, None)
    numbers = [int(number) for kind, _, number in seen if kind == "line" and number]
    assert numbers == sorted(set(numbers))


async def test_a_reader_that_lost_the_stream_goes_on_where_it_was(served: Served) -> None:
    name = await running(served)
    served.house.controller.finish_build(name)
    await gone(served, name)
    everything = served.house.store.lines(name)
    headers = {**served.bearer, "Accept": "text/event-stream", "Last-Event-ID": "1"}
    async with served.bare.get(f"/api/v1/agents/{name}/log", headers=headers) as answer:
        seen = await events(answer)
    assert [data["n"] for kind, data, _ in seen if kind == "line"] == [n for n, _, _ in everything[2:]]


async def test_followers_do_not_keep_the_server_from_stopping(served: Served) -> None:
    name = await running(served)
    async with served.bare.get(f"/api/v1/agents/{name}/log?follow=1", headers=served.bearer) as answer:
        await answer.content.readline()
        await served.server.stop()


async def test_a_held_agent_stays_after_its_build_until_it_is_released(served: Served) -> None:
    house = served.house
    name = await running(served)
    told = await served.ask(f"/api/v1/agents/{name}/hold", "POST", json={"for": "2h", "reason": "look at \x1b it"})
    assert told["hold_reason"] == "look at it"
    house.controller.finish_build(name)
    await house.until(lambda: house.controller.nodes[name].barred, "the node takes no second build")
    agent = await served.ask(f"/api/v1/agents/{name}")
    assert agent["state"] == "finished"
    assert (await served.ask("/api/v1/providers"))["providers"][0]["agents"] == 1
    assert name in house.backend.instances
    await served.ask(f"/api/v1/agents/{name}/release", "POST")
    await house.until(house.nothing_left)
    record = house.store.agent(name)
    assert record is not None
    assert record.reason is None
    texts = [text for _, _, text in house.store.lines(name)]
    told = [line for agent, lines in house.controller.told for line in lines if agent == name]
    assert any(line.startswith("It is held") for line in told), "the build's console says so while the build runs"
    assert not any("no longer held" in line for line in told), "and nothing after its end"
    assert any(text.startswith("It is held for debugging until") and "(look at it)" in text for text in texts)


async def test_a_hold_ends_by_itself(served: Served) -> None:
    house = served.house
    name = await running(served)
    await served.ask(f"/api/v1/agents/{name}/hold", "POST", json={"for": 0.3})
    house.controller.finish_build(name)
    await house.until(house.nothing_left)
    assert "It is no longer held" in [text for _, _, text in house.store.lines(name)]


async def test_a_hold_outlives_the_sidecar(served: Served) -> None:
    house = served.house
    name = await running(served)
    await served.ask(f"/api/v1/agents/{name}/hold", "POST")
    house.controller.finish_build(name)
    await house.until(lambda: house.desk.agents[name].agent.state.value == "finished")
    await house.kill()
    house.revive()
    await house.until(lambda: house.desk.controllers["main"].seen)
    assert house.desk.agents[name].agent.held(house.desk.clock.now())
    assert name in house.backend.instances


async def test_a_held_agent_can_be_deleted(served: Served) -> None:
    name = await running(served)
    await served.ask(f"/api/v1/agents/{name}/hold", "POST")
    served.house.controller.finish_build(name)
    await served.house.until(lambda: served.house.desk.agents[name].agent.state.value == "finished")
    await served.ask(f"/api/v1/agents/{name}", "DELETE", status=202)
    await served.house.until(served.house.nothing_left)


@pytest.mark.parametrize(
    "body", ['{"for": "soon"}', '{"for": 0}', '{"for": -1}', "[1]", "{", '{"reason": 7}', '{"fro": 1}', '{"for": [1]}']
)
async def test_a_hold_that_cannot_be_understood_is_refused(served: Served, body: str) -> None:
    name = await running(served)
    assert (await served.ask(f"/api/v1/agents/{name}/hold", "POST", status=400, data=body))["error"]
    assert served.house.desk.agents[name].agent.held_until is None


async def test_a_running_agent_is_deleted_only_with_now(served: Served) -> None:
    name = await running(served)
    told = await served.ask(f"/api/v1/agents/{name}", "DELETE", status=409)
    assert "a build runs on" in told["error"]
    await served.ask(f"/api/v1/agents/{name}?now=true", "DELETE", status=202)
    await served.house.until(served.house.nothing_left)
    await served.ask(f"/api/v1/agents/{name}", "DELETE")  # gone already is done
    assert "is gone" in (await served.ask(f"/api/v1/agents/{name}/hold", "POST", status=409))["error"]


async def test_an_idle_agent_is_deleted_and_its_request_gets_another(served: Served) -> None:
    house = served.house
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    await house.until(lambda: house.desk.agents[name].agent.state.value == "idle")
    await served.ask(f"/api/v1/agents/{name}", "DELETE", status=202)
    assert await house.agent(besides={name}) != name


async def test_a_build_that_starts_while_its_agent_is_deleted_is_left_alone(served: Served) -> None:
    """The controller knows of the build already, its event has not come yet."""
    house = served.house
    house.controller.queue()
    name = await house.agent()
    house.controller.connect(name)
    await house.until(lambda: house.desk.agents[name].agent.state.value == "idle")
    node = house.controller.nodes[name]
    node.view = type(node.view)(name=name, online=True, busy=True)
    told = await served.ask(f"/api/v1/agents/{name}", "DELETE", status=409)
    assert "a build runs on" in told["error"]
    assert not house.desk.agents[name].doomed


async def test_nothing_idle_is_deleted_while_the_controller_is_away(served: Served) -> None:
    house = served.house
    house.controller.queue()
    name = await house.agent()
    house.controller.outage("no route to host")
    told = await served.ask(f"/api/v1/agents/{name}", "DELETE", status=409)
    assert "no route to host" in told["error"]
    await served.ask(f"/api/v1/agents/{name}?now=1", "DELETE", status=202)
    house.controller.recover()


async def test_requests_say_what_they_wait_for(make_served: Callable[..., Any]) -> None:
    served = await make_served(box_agents=1)
    await running(served)
    served.house.controller.queue(job="second")
    served.house.controller.queue(label="windows")
    await served.house.until(lambda: len(served.house.desk.book) == 1 and served.house.desk.book.unserved)
    told = await served.ask("/api/v1/requests")
    [request] = told["requests"]
    assert (request["job"], request["state"], request["queue_id"]) == ("second", "waiting", 2)
    assert request["waits_for"] == ["provider box is full (1 of 1 agents)"]
    assert (told["total"], told["unserved"]) == (1, 1)


async def test_explain_an_item_and_an_expression(make_served: Callable[..., Any]) -> None:
    served = await make_served(box_agents=1)
    name = await running(served)
    served.house.controller.queue(job="second")
    served.house.controller.queue(label="windows", job="third")
    await served.house.until(lambda: len(served.house.desk.book) == 1 and served.house.desk.book.unserved)
    waits = await served.ask("/api/v1/explain?item=2")
    assert (waits["verdict"], waits["template"]) == ("wait", "maven")
    assert waits["reasons"] == ["provider box is full (1 of 1 agents)"]
    unserved = await served.ask("/api/v1/explain?item=3&controller=main")
    assert unserved["verdict"] == "no"
    assert "third" in unserved["subject"]
    assert "no buildable item 99" in (await served.ask("/api/v1/explain?item=99", status=404))["error"]
    served.house.controller.finish_build(name)
    await gone(served, name)
    await served.house.until(lambda: served.house.desk.agents)
    serving = await served.ask("/api/v1/explain?item=2")
    assert serving["agent"] in served.house.desk.agents
    label = await served.ask("/api/v1/explain", params={"label": "maven && !windows"})
    assert label["template"] == "maven"
    wrong = await served.ask("/api/v1/explain", params={"label": "a||"}, status=400)
    assert "a label is missing at character 4" in wrong["error"]


async def test_explain_an_item_whose_build_has_begun(served: Served) -> None:
    name = await running(served)
    told = await served.ask("/api/v1/explain?item=1")
    assert (told["verdict"], told["agent"]) == ("yes", name)
    assert told["lines"][0] == f"queue item 1 at main, no longer in the queue: agent {name} serves it already"
    assert told["next_step"]
    served.house.controller.finish_build(name)
    await gone(served, name)
    after = (await served.ask("/api/v1/explain?item=1", status=404))["error"]
    assert after.endswith(f"ran on agent {name}, which is gone")


@pytest.mark.parametrize(
    "query",
    ["", "item=1&label=x", "item=x", "item=-1", "item=1.5", "item=٣", "label=", "label=%20", "label=x&controller=no"],
)
async def test_a_question_that_cannot_be_understood_is_refused(served: Served, query: str) -> None:
    assert (await served.ask(f"/api/v1/explain?{query}", status=400))["error"]


async def test_a_drained_provider_gets_nothing_also_after_a_restart(served: Served) -> None:
    house = served.house
    told = await served.ask("/api/v1/providers/box/drain", "POST")
    assert (told["state"], told["drained"]) == ("draining", True)
    house.controller.queue()
    await house.until(lambda: len(house.desk.book) == 1)
    assert (await served.ask("/api/v1/requests"))["requests"][0]["waits_for"] == [
        "provider box is draining: `provisioner drain`"
    ]
    await house.kill()
    house.revive()
    restore_drained(house.desk)
    assert house.desk.providers["box"].drained
    await served.close()
    again = Served(house)
    await again.open()
    try:
        assert (await again.ask("/api/v1/providers/box/resume", "POST"))["state"] in ("open", "unreachable")
        await house.agent()
    finally:
        await again.close()


async def test_providers_templates_and_controllers(served: Served) -> None:
    await served.house.until(lambda: served.house.desk.controllers["main"].seen)
    [provider] = (await served.ask("/api/v1/providers?ping=true"))["providers"]
    assert (provider["name"], provider["max_agents"], provider["agents"], provider["ping"]) == ("box", 10, 0, "fake 1")
    [template] = (await served.ask("/api/v1/templates"))["templates"]
    assert (template["name"], template["labels"], template["image"]) == ("maven", ["maven"], "maven:3.9")
    assert "env" not in template
    [controller] = (await served.ask("/api/v1/controllers"))["controllers"]
    assert (controller["up"], controller["bridge"], controller["version"]) == (True, "script", "2.460")


async def test_only_orphans_that_two_passes_saw_are_deleted(served: Served) -> None:
    house = served.house
    await house.until(lambda: house.desk.controllers["main"].seen and house.desk.providers["box"].up)
    sweep = house.engine.instance_sweeps["box"]
    name = await running(served)
    order = house.backend.instances[name].order
    stray = type(order)(agent="stray", owner="test", image=None, command=(), remote_fs="/")
    house.backend.instances["stray"] = FakeInstance(order=stray, status=Status(state=InstanceState.RUNNING))
    await sweep.look()
    [orphan] = (await served.ask("/api/v1/orphans"))["orphans"]
    assert (orphan["agent"], orphan["passes"], orphan["where"]) == ("stray", 1, "box")
    assert orphan["reason"] == "no record knows it; removed when a second look agrees"
    told = await served.ask("/api/v1/orphans", "DELETE")
    assert (told["removed"], [o["agent"] for o in told["left"]]) == ([], ["stray"])
    assert "stray" in house.backend.instances
    sweep._seen = dict.fromkeys(sweep._seen, PASSES)  # as after a second pass that could not remove it
    told = await served.ask("/api/v1/orphans", "DELETE")
    assert [o["agent"] for o in told["removed"]] == ["stray"]
    assert list(house.backend.instances) == [name]
    assert (await served.ask("/api/v1/orphans"))["orphans"] == []


async def test_what_is_not_there_and_what_does_not_go(served: Served) -> None:
    assert "docs/http.md" in (await served.ask("/api/v1/nonsense", status=404))["error"]
    assert "PUT does not go" in (await served.ask("/api/v1/agents", "PUT", status=405))["error"]
    name = await running(served)
    told = await served.ask(f"/api/v1/agents/{name}/hold", "POST", status=413, data=b" " * 100_000)
    assert told["error"] == "the body is too large"


async def test_the_token_is_in_no_answer(served: Served, tmp_path: Path) -> None:
    assert settings(tmp_path).token_file.stat().st_mode & 0o777 == 0o600
    for path in ("/", "/api/v1/agents", "/api/v1/providers", "/api/v1/templates", "/metrics", "/readyz"):
        assert served.token not in str(await served.ask(path))
