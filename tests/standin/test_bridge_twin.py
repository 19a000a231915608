"""The twin of the bridge keeps the protocol: dedication, events, consoles, endings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from controller import freestyle_xml, pipeline_xml

from provisioner.controller.bridge_script import render_removal, render_script
from tests.builds import build, console, create_job, create_node, ended, freestyle, get, why
from tests.standin.bridge_talk import Talk, call, request_of
from tests.standin_process import Agents, StandinProcess, ask, eventually


def queued(standin: StandinProcess, talk: Talk, job: str) -> dict[str, Any]:
    build(standin, job)

    def look() -> Any:
        talk.read()
        found = [e["item"] for e in talk.events if e["type"] == "buildable" and e["item"]["job"] == job]
        return found[-1] if found else None

    item: dict[str, Any] = eventually(look, f"{job} buildable")
    return item


def test_a_node_takes_its_own_item_once_and_nothing_else(
    standin: StandinProcess, agents: Agents, tmp_path: Path
) -> None:
    talk = Talk(standin)
    freestyle(standin, "one", "echo $NODE_NAME", "lab && x")
    freestyle(standin, "two", "echo $NODE_NAME", "lab")
    wanted = queued(standin, talk, "two")
    other = queued(standin, talk, "one")
    assert (wanted["kind"], wanted["label"], wanted["task"]) == ("freestyle", "lab", "job/two/")
    answer = talk.register("lab-1", ["lab", "x"], wanted, str(tmp_path), lines=["template lab"])
    assert answer["ok"]
    assert len(answer["secret"]) == 64
    agents.start("lab-1")
    assert talk.one("online")["node"] == "lab-1"
    started = talk.one("started")
    assert (started["queue_id"], started["build_url"]) == (wanted["id"], "job/two/1/")
    assert talk.one("left", id=wanted["id"])["node"] == "lab-1"
    assert talk.one("finished")["failed"] is False
    assert ended(standin, "job/two/1/") == "SUCCESS"
    text = console(standin, "job/two/1/")
    assert "Running as SYSTEM\n[provisioner] template lab\n[provisioner] Agent lab-1 connected " in text
    assert text.index("[provisioner] Agent") < text.index("Building remotely on lab-1 (lab x)")
    (last,) = [line for line in text.splitlines() if "is done" in line]
    assert last.startswith("[provisioner] Agent lab-1 is done: connected in ")
    assert text.index(last) < text.index("Finished: SUCCESS")
    build(standin, "two")
    assert talk.hello()["nodes"] == [
        {
            "name": "lab-1",
            "online": True,
            "busy": False,
            "accepting": False,
            "connected": True,
            "started": True,
            "finished": True,
            "queue_id": None,
            "build_url": None,
            "offline_cause": None,
            "known": True,
        }
    ]
    assert {i["job"] for i in talk.snapshot["items"]} == {"one", "two"}
    assert ask(standin, "GET", f"queue/item/{other['id']}/api/json").json()["buildable"] is True
    assert talk.apply({"op": "remove", "name": "lab-1", "lines": ["gone"]}) == [{"ok": True, "existed": True}]
    assert talk.apply({"op": "remove", "name": "lab-1", "lines": []}) == [{"ok": True, "existed": False}]
    talk.one("gone")
    assert console(standin, "job/two/1/").endswith("[provisioner] gone\n")


def test_labels_are_never_stored_and_go_with_the_bridge(standin: StandinProcess, tmp_path: Path) -> None:
    talk = Talk(standin)
    freestyle(standin, "needs", "true", "lab")
    talk.register("lab-1", ["lab"], queued(standin, talk, "needs"), str(tmp_path))
    assert "<label></label>" in ask(standin, "GET", "computer/lab-1/config.xml").text
    assert [n["nodeName"] for n in get(standin, "label/lab/api/json")["nodes"]] == ["lab-1"]
    ask(standin, "POST", "standin/bridge", body=json.dumps({"verb": "remove"}))
    assert get(standin, "label/lab/api/json")["nodes"] == []


def test_a_standby_node_takes_nothing_until_it_is_given_something(
    standin: StandinProcess, agents: Agents, tmp_path: Path
) -> None:
    talk = Talk(standin)
    talk.register("spare-1", ["lab"], None, str(tmp_path))
    agents.start("spare-1")
    talk.one("online")
    freestyle(standin, "later", "true", "lab")
    item = queued(standin, talk, "later")
    eventually(lambda: "executor on" in str(why(standin, item["id"])), "it waits")
    assert talk.apply({"op": "give", "name": "spare-1", "request": request_of(item)}) == [{"ok": True}]
    assert ended(standin, "job/later/1/") == "SUCCESS"


def test_failing_a_freestyle_item_leaves_a_record(standin: StandinProcess) -> None:
    talk = Talk(standin, parameters=("IMAGE", "NOT_THERE"))
    create_job(standin, "bad", freestyle_xml("true", label="lab", parameters={"IMAGE": "x:1", "SECRET": "s"}))
    ask(standin, "POST", "job/bad/buildWithParameters?delay=0sec&IMAGE=none:1")
    item = talk.one("buildable")["item"]
    assert item["parameters"] == {"IMAGE": "none:1"}
    op = {"op": "fail", "request": request_of(item), "reason": "image_not_found", "message": "no image none:1"}
    first, again = talk.apply({**op, "lines": ["pulling"]}, {**op, "lines": []})
    assert first["outcome"] == "not_built"
    assert again["outcome"] == "gone"
    assert ended(standin, "job/bad/1/") == "NOT_BUILT"
    text = console(standin, "job/bad/1/")
    assert "[provisioner] pulling\n[provisioner] no image none:1 (image_not_found)\nFinished: NOT_BUILT\n" in text
    left = get(standin, f"queue/item/{item['id']}/api/json")
    assert left["executable"]["url"] == f"{standin.url}job/bad/1/"
    assert talk.one("left")["node"] == ""


def test_failing_a_node_step_fails_the_step_with_the_message(standin: StandinProcess) -> None:
    talk = Talk(standin)
    create_job(standin, "pipe", pipeline_xml("catchError { node('lab') { sh 'true' } }\necho 'after'"))
    build(standin, "pipe")
    item = talk.one("buildable")["item"]
    assert (item["kind"], item["task"], item["job"]) == ("pipeline", "job/pipe/1/", "pipe")
    assert item["build_url"] == "job/pipe/1/"
    talk.apply({"op": "log", "name": None, "request": request_of(item), "lines": ["live"]})
    assert "[provisioner] live\n" in console(standin, "job/pipe/1/")
    op = {"op": "fail", "request": request_of(item), "reason": "image_denied", "message": "no access", "lines": []}
    assert talk.apply(op)[0] == {"ok": True, "outcome": "step_failed", "build_url": "job/pipe/1/"}
    eventually(lambda: "\nafter\n" in console(standin, "job/pipe/1/"), "the script went on")
    assert "ERROR: no access" in console(standin, "job/pipe/1/")


def test_an_item_that_a_static_node_could_serve_is_spared(standin: StandinProcess, tmp_path: Path) -> None:
    talk = Talk(standin)
    freestyle(standin, "both", "true", "lab")
    item = queued(standin, talk, "both")
    explain = {"op": "explain", "request": request_of(item)}
    assert talk.apply(explain) == [{"ok": True, "others": False}]
    create_node(standin, "static-1", "lab", tmp_path)
    assert talk.apply(explain) == [{"ok": True, "others": True}]
    op = {"op": "fail", "request": request_of(item), "reason": "image_denied", "message": "no", "lines": []}
    assert talk.apply(op)[0]["outcome"] == "spared"
    assert get(standin, f"queue/item/{item['id']}/api/json")["buildable"] is True


def test_a_strangers_node_is_left_alone(standin: StandinProcess, tmp_path: Path) -> None:
    talk = Talk(standin)
    create_node(standin, "theirs", "lab", tmp_path)
    assert talk.register("theirs", ["lab"], None, str(tmp_path))["code"] == 409
    assert talk.apply({"op": "remove", "name": "theirs", "lines": []})[0]["code"] == 409
    assert ask(standin, "GET", "computer/theirs/api/json").status == 200
    assert Talk(standin, "t-2").register("mine", ["lab"], None, str(tmp_path))["ok"]
    assert talk.register("mine", ["lab"], None, str(tmp_path))["code"] == 409
    talk.read()
    assert [e for e in talk.events if e.get("node") == "mine"] == []


def test_an_old_place_in_the_stream_is_refused(standin: StandinProcess) -> None:
    talk = Talk(standin)
    talk.epoch = "another"
    assert talk.read()["resync"] is True
    talk.hello()
    talk.seq += 1000
    assert talk.read()["resync"] is True


def test_wrong_protocol_owner_and_method_are_told_apart(standin: StandinProcess) -> None:
    hello = "provisioner-bridge/hello"
    reply = ask(standin, "POST", hello, body=json.dumps({"protocol": 2, "owner": "a"}))
    assert (reply.status, reply.json()) == (409, {"error": "protocol", "speaks": [1]})
    assert ask(standin, "POST", hello, body=json.dumps({"protocol": 1, "owner": "a b"})).status == 400
    assert ask(standin, "GET", hello).status == 405
    assert ask(standin, "GET", "provisioner-bridge/status", auth=None).status == 403
    status = call(standin, "status")
    assert (status["mode"], status["protocol"], status["bridge"]) == ("init", [1], "1.2.0")


def test_the_script_console_puts_the_bridge_in_and_takes_it_out() -> None:
    with StandinProcess() as standin:

        def install(script: str) -> Any:
            answer = ask(standin, "POST", "scriptText", form={"script": script}).text
            assert answer.startswith("PROVISIONER-BRIDGE ")
            return json.loads(answer.partition(" ")[2])

        assert ask(standin, "GET", "provisioner-bridge/status").status == 404
        first = install(render_script())
        assert first["installed"] is True
        assert install(render_script()) == {"installed": False, "found": "1.2.0"}
        second = install(render_script(replace=True))
        assert second["epoch"] != first["epoch"]
        assert call(standin, "status")["mode"] == "script"
        assert install(render_removal())["removed"] > 0
        assert ask(standin, "GET", "provisioner-bridge/status").status == 404
