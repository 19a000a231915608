"""What a restart leaves, and what a crash takes."""

from __future__ import annotations

import time
from pathlib import Path

from controller import pipeline_xml

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
)
from tests.standin.bridge_talk import Talk, request_of
from tests.standin_process import Agents, StandinProcess, ask, eventually


def test_a_clean_restart_keeps_nodes_and_queue(standin: StandinProcess, tmp_path: Path) -> None:
    create_node(standin, "stays", "nothing", tmp_path)
    freestyle(standin, "stays", "true", "nobody")
    item = build(standin, "stays")
    before = get(standin, f"queue/item/{item}/api/json")
    old = ask(standin, "GET", "api/json").headers["X-Jenkins-Session"]
    new = standin.restart()
    assert ask(standin, "GET", "api/json").headers["X-Jenkins-Session"] == new != old
    after = get(standin, f"queue/item/{item}/api/json")
    assert (after["id"], after["inQueueSince"]) == (before["id"], before["inQueueSince"])
    assert get(standin, "computer/stays/api/json")["offline"] is True


def test_a_crash_gives_queue_ids_out_again(standin: StandinProcess) -> None:
    freestyle(standin, "lost", "true", "nobody")
    freestyle(standin, "next", "true", "nobody")
    item = build(standin, "lost")
    since = get(standin, f"queue/item/{item}/api/json")["inQueueSince"]
    standin.restart(crash=True, next_id=item)
    assert get(standin, "queue/api/json")["items"] == []
    assert build(standin, "next") == item
    assert get(standin, f"queue/item/{item}/api/json")["inQueueSince"] > since


def test_the_controller_says_503_while_it_starts(standin: StandinProcess) -> None:
    standin.restart(down_s=0.5, wait=False)
    reply = ask(standin, "GET", "api/json")
    assert reply.status == 503
    assert "X-Jenkins" not in reply.headers
    eventually(lambda: ask(standin, "GET", "api/json").status == 200, "it is up again")


def test_a_running_body_goes_on_after_a_restart(standin: StandinProcess, agents: Agents, tmp_path: Path) -> None:
    talk = Talk(standin)
    create_job(standin, "long", pipeline_xml("node('lab') { sh 'echo begun; sleep 2; echo ended' }"))
    build(standin, "long")
    item = talk.one("buildable")["item"]
    talk.register("lab-1", ["lab"], item, str(tmp_path))
    agents.start("lab-1")
    says(standin, "job/long/1/", "\nbegun")
    standin.restart()
    adopt = {"op": "adopt", "name": "lab-1", "labels": ["lab"], "request": request_of(item), "started": True}
    talk.hello()
    assert talk.snapshot["nodes"][0]["known"] is False
    assert talk.apply({**adopt, "lines": []})[0]["exists"] is True
    assert ended(standin, "job/long/1/") == "SUCCESS"
    text = console(standin, "job/long/1/")
    assert text.count("\nbegun\n") == 1
    assert text.index("Ready to run at lab-1") < text.index("\nended\n")
    history = standin.state()["history"]
    assert [r["node"] for r in history] == ["lab-1"]


def test_a_freestyle_build_ends_with_its_controller(standin: StandinProcess, agents: Agents, tmp_path: Path) -> None:
    create_node(standin, "fs", "fs", tmp_path)
    agent = agents.start("fs")
    freestyle(standin, "fs", "echo begun; sleep 60", "fs")
    build(standin, "fs")
    says(standin, "job/fs/1/", "\nbegun")
    standin.restart(crash=True)
    assert record(standin, "job/fs/1/")["result"] == "FAILURE"
    online(standin, "fs")
    assert agent.process.poll() is None
    agent.end()
    offline(standin, "fs")


def test_an_unadopted_node_takes_nothing_after_a_restart(
    standin: StandinProcess, agents: Agents, tmp_path: Path
) -> None:
    talk = Talk(standin)
    freestyle(standin, "wants", "true", "lab")
    build(standin, "wants")
    item = talk.one("buildable")["item"]
    talk.register("lab-1", ["lab"], item, str(tmp_path))
    standin.restart()
    agents.start("lab-1")
    online(standin, "lab-1")
    time.sleep(0.3)
    assert record(standin, "job/wants/1/") is None
    talk.hello()
    talk.apply({"op": "adopt", "name": "lab-1", "labels": ["lab"], "request": request_of(item), "lines": []})
    assert ended(standin, "job/wants/1/") == "SUCCESS"
