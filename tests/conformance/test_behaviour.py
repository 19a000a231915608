"""What happens, beyond single answers: queue, nodes, agents and builds, the same on both controllers."""

# ruff: noqa: RUF001  (the quotes are Jenkins' own)

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from controller import freestyle_xml, pipeline_xml

from tests.builds import (
    build,
    console,
    create_job,
    create_node,
    ended,
    freestyle,
    get,
    offline,
    online,
    record,
    says,
    why,
)
from tests.standin_process import Agents, Asked, ask, eventually

pytestmark = pytest.mark.usefixtures("clean")


def test_an_item_waits_out_its_quiet_period_and_is_not_queued_twice(controller: Asked) -> None:
    freestyle(controller, "quiet", "true", "nobody")
    first = build(controller, "quiet", "")
    assert (why(controller, first) or "").startswith("In the quiet period. Expires in ")
    item = get(controller, f"queue/item/{first}/api/json")
    assert item["_class"] == "hudson.model.Queue$WaitingItem"
    assert 4000 <= item["timestamp"] - item["inQueueSince"] <= 5500
    assert build(controller, "quiet", "") == first


def test_why_tells_how_far_the_nodes_are(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_node(controller, "why-other", "unrelated", tmp_path)
    freestyle(controller, "why", "echo begun; sleep 30", "why:a&&why-b")
    item = build(controller, "why")
    eventually(
        lambda: why(controller, item) == 'There are no nodes with the label ‘"why:a"&&why-b’', "why without a node"
    )
    create_node(controller, "why-1", "why:a why-b", tmp_path)
    eventually(lambda: why(controller, item) == "‘why-1’ is offline", "why with one node")
    create_node(controller, "why-2", "why:a why-b", tmp_path)
    eventually(lambda: why(controller, item) == 'All nodes of label ‘"why:a"&&why-b’ are offline', "why with two nodes")
    assert get(controller, f"queue/item/{item}/api/json?tree=stuck")["stuck"] is True
    agents.start("why-1")
    says(controller, "job/why/1/", "\nbegun")  # a stop while a real agent still loads classes leaves it unusable
    freestyle(controller, "why-next", "true", "why-b")
    second = build(controller, "why-next")
    eventually(lambda: why(controller, second) == "Waiting for next available executor on ‘why-b’", "why when busy")
    assert get(controller, f"queue/item/{second}/api/json?tree=stuck")["stuck"] is False
    ask(controller, "POST", "job/why/1/stop")
    assert ended(controller, "job/why/1/") == "ABORTED"
    assert ended(controller, "job/why-next/1/") == "SUCCESS", console(controller, "job/why-next/1/")


def test_an_agent_needs_the_secret_and_its_name_for_itself(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_node(controller, "own", "own", tmp_path)
    secret = agents.start("own")
    online(controller, "own")
    other = Agents(controller, tmp_path / "other")
    try:
        assert other.start("own", secret="0" * 64).wait() == 255
        assert "403" in other.started[-1].log.read_text()
        assert other.start("own").wait() == 255
        assert "500" in other.started[-1].log.read_text()
        assert other.start("nobody", secret="0" * 64).wait() == 255
        assert "400" in other.started[-1].log.read_text()
    finally:
        other.end()
    assert secret.process.poll() is None
    log = ask(controller, "GET", "computer/own/logText/progressiveText?start=0").text
    assert "Inbound agent connected from 127.0.0.1" in log
    assert "Agent successfully connected and online" in log


def test_a_held_node_finishes_its_build_and_takes_no_other(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_node(controller, "held", "held", tmp_path)
    agents.start("held")
    online(controller, "held")
    freestyle(controller, "held-1", "echo begun; sleep 3; echo ended", "held")
    freestyle(controller, "held-2", "true", "held")
    build(controller, "held-1")
    says(controller, "job/held-1/1/", "\nbegun")
    ask(controller, "POST", "computer/held/toggleOffline?offlineMessage=mine")
    item = build(controller, "held-2")
    assert ended(controller, "job/held-1/1/") == "SUCCESS"
    time.sleep(0.5)
    assert why(controller, item) == "‘held’ is offline"
    ask(controller, "POST", "computer/held/toggleOffline?offlineMessage=")
    assert ended(controller, "job/held-2/1/") == "SUCCESS"


def test_an_item_that_was_blocked_counts_as_buildable_from_the_end_of_its_quiet_period(
    controller: Asked, agents: Agents, tmp_path: Path
) -> None:
    create_node(controller, "single", "single", tmp_path)
    agents.start("single")
    online(controller, "single")
    freestyle(controller, "single", "echo begun; sleep 60", "single", concurrent=False)
    build(controller, "single")
    says(controller, "job/single/1/", "\nbegun")
    path = f"queue/item/{build(controller, 'single')}/api/json"
    path += "?tree=_class,blocked,buildable,buildableStartMilliseconds"
    eventually(lambda: get(controller, path)["blocked"], "the second is blocked")
    blocked = get(controller, path)
    assert (blocked["_class"], blocked["buildable"]) == ("hudson.model.Queue$BlockedItem", False)
    ask(controller, "POST", "computer/single/toggleOffline?offlineMessage=mine")
    time.sleep(0.5)
    ask(controller, "POST", "job/single/1/stop")
    eventually(lambda: get(controller, path)["buildable"], "the second waits for its node")
    buildable = get(controller, path)
    assert (buildable["_class"], buildable["blocked"]) == ("hudson.model.Queue$BuildableItem", False)
    assert buildable["buildableStartMilliseconds"] == blocked["buildableStartMilliseconds"]
    ask(controller, "POST", "quietDown")
    try:
        assert get(controller, path)["buildable"] is True
        assert get(controller, "api/json?tree=quietingDown")["quietingDown"] is True
    finally:
        ask(controller, "POST", "cancelQuietDown")


def test_deleting_a_node_fails_the_freestyle_build_on_it(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_node(controller, "gone", "gone", tmp_path)
    agents.start("gone", "-noReconnect")
    online(controller, "gone")
    freestyle(controller, "gone", "echo begun; sleep 60", "gone")
    build(controller, "gone")
    says(controller, "job/gone/1/", "\nbegun")
    assert ask(controller, "DELETE", "computer/gone/").status == 200
    assert ask(controller, "GET", "computer/gone/api/json").status == 200
    ask(controller, "POST", "computer/gone/doDelete")
    assert ended(controller, "job/gone/1/", 15) == "FAILURE"
    agents.started[-1].wait()


def test_a_killed_agent_fails_a_freestyle_build(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_node(controller, "dead", "dead", tmp_path)
    agent = agents.start("dead")
    online(controller, "dead")
    freestyle(controller, "dead", "echo begun; sleep 60", "dead")
    build(controller, "dead")
    says(controller, "job/dead/1/", "\nbegun")
    agent.kill()
    assert ended(controller, "job/dead/1/") == "FAILURE"
    offline(controller, "dead")
    assert get(controller, "computer/dead/api/json?tree=offlineCauseReason")["offlineCauseReason"]


def test_a_pipeline_step_survives_its_agent(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_node(controller, "back", "back", tmp_path)
    agent = agents.start("back")
    online(controller, "back")
    create_job(controller, "back", pipeline_xml("node('back') { sh 'echo begun; sleep 4; echo ended' }"))
    build(controller, "back")
    says(controller, "job/back/1/", "\nbegun")
    agent.kill()
    offline(controller, "back")
    agents.start("back")
    assert ended(controller, "job/back/1/", 90) == "SUCCESS"
    assert "\nended" in console(controller, "job/back/1/")


def test_node_blocks_in_parallel_run_on_nodes_of_their_own(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    for name in ("par-1", "par-2"):
        create_node(controller, name, "par", tmp_path)
        agents.start(name)
    script = """
        echo 'first'
        parallel(one: { node('par') { sh 'echo on one; sleep 2' } }, two: { node('par') { sh 'echo on two; sleep 2' } })
        node('par') { sh 'exit 3' }
    """
    online(controller, "par-1")
    online(controller, "par-2")
    create_job(controller, "par", pipeline_xml(script))
    build(controller, "par")

    def both_busy() -> bool:
        tree = "computer[displayName,idle,executors[currentExecutable[url,fullDisplayName]]]"
        computers = get(controller, f"computer/api/json?tree={tree}")["computer"]
        found = [c["executors"][0]["currentExecutable"] for c in computers if c["displayName"].startswith("par-")]
        return [f and f["fullDisplayName"] for f in found] == ["part of par #1"] * 2

    eventually(both_busy, "both nodes busy")
    assert record(controller, "job/par/1/")["building"] is True
    assert ended(controller, "job/par/1/") == "FAILURE"
    says(controller, "job/par/1/", "Finished: FAILURE")  # Jenkins writes it a little later
    text = console(controller, "job/par/1/")
    for line in ("first", "[Pipeline] { (Branch: one)", "on one", "on two", "ERROR: script returned exit code 3"):
        assert f"\n{line}\n" in text


def test_a_failure_that_is_caught_lets_the_script_go_on(controller: Asked) -> None:
    script = "stage('S') { catchError { error 'oops' } }\necho 'after'"
    create_job(controller, "caught", pipeline_xml(script))
    build(controller, "caught")
    assert ended(controller, "job/caught/1/") == "FAILURE"
    says(controller, "job/caught/1/", "Finished: FAILURE")
    assert console(controller, "job/caught/1/") == (
        "Started by user admin\n[Pipeline] Start of Pipeline\n[Pipeline] stage\n[Pipeline] { (S)\n"
        "[Pipeline] catchError\n[Pipeline] {\n[Pipeline] error\n[Pipeline] }\nERROR: oops\n"
        "Setting overall build result to FAILURE\n[Pipeline] // catchError\n[Pipeline] }\n[Pipeline] // stage\n"
        "[Pipeline] echo\nafter\n[Pipeline] End of Pipeline\nFinished: FAILURE\n"
    )


def test_a_waiting_node_step_is_an_item_of_its_own(controller: Asked, tmp_path: Path) -> None:
    create_node(controller, "other", "unrelated", tmp_path)
    create_job(controller, "waits", pipeline_xml("node('nobody-has') { sh 'true' }"))
    build(controller, "waits")
    tree = "items[id,task[name,url,_class],why]"

    def step() -> Any:
        items = get(controller, f"queue/api/json?tree={tree}")["items"]
        return next((i for i in items if i["task"].get("name") == "part of waits #1"), None)

    found = eventually(step, "the node step in the queue")
    assert found["task"]["url"] == "job/waits/1/"
    eventually(lambda: "‘nobody-has’" in (step()["why"] or ""), "the label in why")
    assert record(controller, "job/waits/1/")["result"] is None
    assert ask(controller, "POST", f"queue/cancelItem?id={found['id']}").status == 204
    assert ended(controller, "job/waits/1/") == "ABORTED"
    says(controller, "job/waits/1/", "Queue task was cancelled")


def test_builds_wait_while_the_controller_is_quieting_down(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_node(controller, "calm", "calm", tmp_path)
    agents.start("calm")
    online(controller, "calm")
    freestyle(controller, "calm", "true", "calm")
    ask(controller, "POST", "quietDown")
    try:
        build(controller, "calm")
        time.sleep(1)
        assert record(controller, "job/calm/1/") is None
    finally:
        ask(controller, "POST", "cancelQuietDown")
    assert ended(controller, "job/calm/1/") == "SUCCESS"


def test_a_job_in_a_folder_has_its_full_name(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    create_job(controller, "team", "<com.cloudbees.hudson.plugins.folder.Folder/>")
    reply = ask(
        controller,
        "POST",
        "job/team/createItem?name=app",
        body=freestyle_xml("echo $JOB_NAME on $NODE_NAME", label="in-folder"),
        headers={"Content-Type": "text/xml"},
    )
    assert reply.status == 200
    create_node(controller, "in-folder", "", tmp_path)
    agents.start("in-folder")
    online(controller, "in-folder")
    assert ask(controller, "POST", "job/team/job/app/build?delay=0sec").status == 201
    assert ended(controller, "job/team/job/app/1/") == "SUCCESS"
    assert "team/app on in-folder" in console(controller, "job/team/job/app/1/")
    found = get(controller, "job/team/job/app/api/json?tree=fullName,lastBuild[number,url]")
    assert found["fullName"] == "team/app"
    assert found["lastBuild"]["url"] == f"{controller.url}job/team/job/app/1/"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "computer/doCreateItem", 404),
        ("POST", "job/no-such/build", 404),
        ("GET", "job/no-such/api/json", 404),
        ("POST", "computer/no-such/doDelete", 404),
        ("GET", "provisioner-bridge/status", 404),
        ("GET", "queue/item/x/api/json", 500),
    ],
)
def test_refusals_have_the_same_status(controller: Asked, method: str, path: str, status: int) -> None:
    assert ask(controller, method, path).status == status


def test_a_parameterised_job_is_built_with_parameters_only(controller: Asked) -> None:
    create_job(controller, "asks", freestyle_xml("true", label="nobody", parameters={"A": "1"}))
    assert ask(controller, "POST", "job/asks/build?delay=0sec").status == 400
    first = ask(controller, "POST", "job/asks/buildWithParameters?delay=0sec&A=2").headers["Location"]
    assert ask(controller, "POST", "job/asks/buildWithParameters?delay=0sec&A=2").headers["Location"] == first
    other = ask(controller, "POST", "job/asks/buildWithParameters?delay=0sec&A=3&B=4").headers["Location"]
    assert other != first
    item = get(controller, other.removeprefix(controller.url) + "api/json?tree=actions[parameters[name,value]]")
    given = [p for a in item["actions"] for p in a.get("parameters", [])]
    assert [(p["name"], p["value"]) for p in given] == [("A", "3")]
    freestyle(controller, "asks-not", "true", "nobody")
    assert ask(controller, "POST", "job/asks-not/buildWithParameters?delay=0sec").status == 500


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("a && b", "a&&b"),
        ("a||b && !c", "a||b&&!c"),
        ("(a || b) && c", "(a||b)&&c"),
        ("a -> b", "a->b"),
        ('"x y"', "x y"),
        ('"x:y" && a', '"x:y"&&a'),
    ],
)
def test_label_expressions_are_printed_alike(controller: Asked, tmp_path: Path, expression: str, printed: str) -> None:
    create_node(controller, "unrelated", "c", tmp_path)
    job = f"label-{expression.encode().hex()}"
    freestyle(controller, job, "true", expression)
    item = build(controller, job)
    eventually(lambda: f"‘{printed}’" in (why(controller, item) or ""), f"{printed} in why")
    assert get(controller, f"job/{job}/api/json?tree=labelExpression")["labelExpression"] == expression
