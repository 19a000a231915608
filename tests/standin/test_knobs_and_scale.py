"""Faults on request, and thousands of items without thousands of processes."""

from __future__ import annotations

import base64
import http.client
import json
import time
from pathlib import Path

import pytest

from tests.builds import create_node, get, online
from tests.standin.bridge_talk import Talk
from tests.standin_process import Agents, StandinProcess, ask, eventually


def test_errors_fall_on_matching_requests_as_often_as_asked(standin: StandinProcess) -> None:
    standin.knobs(error_rate=1.0, error_status=502, match="GET /queue", times=2)
    assert ask(standin, "GET", "computer/api/json").status == 200
    assert [ask(standin, "GET", "queue/api/json").status for _ in range(3)] == [502, 502, 200]
    assert standin.state()["faults"] == 2


def test_an_answer_may_be_dropped_before_or_after_the_act(standin: StandinProcess) -> None:
    standin.knobs(drop_rate=1.0, match="quietDown", times=1)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(standin, "POST", "quietDown")
    assert get(standin, "api/json?tree=quietingDown")["quietingDown"] is False
    standin.knobs(drop_after=True, times=1)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(standin, "POST", "quietDown")
    assert get(standin, "api/json?tree=quietingDown")["quietingDown"] is True


def test_an_answer_may_end_in_the_middle(standin: StandinProcess) -> None:
    standin.knobs(truncate_rate=1.0, times=1)
    with pytest.raises(http.client.IncompleteRead):
        ask(standin, "GET", "computer/api/json")


@pytest.mark.parametrize(
    ("knob", "status", "kind"),
    [("forbid", 403, "text/html"), ("html_for_json", 200, "text/html"), ("login_redirect", 302, "")],
)
def test_a_proxy_may_stand_between(standin: StandinProcess, knob: str, status: int, kind: str) -> None:
    standin.knobs(**{knob: True})
    reply = ask(standin, "GET", "queue/api/json")
    assert reply.status == status
    assert reply.headers.get("Content-Type", "").startswith(kind)
    standin.knobs(reset=True)
    assert ask(standin, "GET", "queue/api/json").status == 200


def test_latency_is_added(standin: StandinProcess) -> None:
    standin.knobs(latency_ms=120)
    began = time.monotonic()
    ask(standin, "GET", "api/json")
    assert time.monotonic() - began >= 0.12


def test_a_knob_that_does_not_exist_is_refused(standin: StandinProcess) -> None:
    reply = ask(standin, "POST", "standin/knobs", body=json.dumps({"latency": 1}))
    assert reply.status == 400
    assert "latency_ms" in reply.text


def test_a_hanging_agent_is_connected_and_never_online(standin: StandinProcess, agents: Agents, tmp_path: Path) -> None:
    create_node(standin, "hangs", "h", tmp_path)
    standin.knobs(hang_agents=True)
    agent = agents.start("hangs")
    eventually(lambda: "Connected" in agent.log.read_text(), "the agent believes that it is connected")
    assert get(standin, "computer/hangs/api/json")["offline"] is True


def test_an_agent_may_come_over_the_agent_port(standin: StandinProcess, agents: Agents, tmp_path: Path) -> None:
    create_node(standin, "tcp", "t", tmp_path)
    agents.start("tcp", "-tcp")
    online(standin, "tcp")
    assert "JNLP4-connect" in ask(standin, "GET", "computer/tcp/logText/progressiveText?start=0").text
    other = Agents(standin, tmp_path / "other")
    try:
        assert other.start("tcp", "-tcp", "-noReconnect", secret="0" * 64).wait() == 0
    finally:
        other.end()


def test_thousands_of_items_and_a_thousand_simulated_agents(standin: StandinProcess) -> None:
    standin.scale(agents={"build_s": 0.0})
    talk = Talk(standin)
    began = time.monotonic()
    assert standin.scale(items=10_000, label="lab")["items"] == 10_000
    queued_s = time.monotonic() - began
    items = talk.hello()["items"]
    assert len(items) == 10_000
    began = time.monotonic()
    for at in range(0, 1000, 100):
        ops = [
            {
                "op": "register",
                "name": f"lab-{n}",
                "labels": ["lab"],
                "remote_fs": "/tmp",
                "launcher": "websocket",
                "request": {k: items[n][k] for k in ("id", "since_ms", "task")},
                "lines": ["x"],
            }
            for n in range(at, at + 100)
        ]
        assert all(r["ok"] for r in talk.apply(*ops))
    eventually(lambda: sum(1 for r in standin.state()["history"] if r["finished_ms"]) == 1000, "1,000 builds", 30)
    ran_s = time.monotonic() - began
    state = standin.state()
    assert {len(builds) for builds in state["builds_by_node"].values()} == {1}
    assert {r["queue_id"] for r in state["history"]} == {i["id"] for i in items[:1000]}
    assert state["queue"]["buildable"] == 9000
    # generous: quadratic work would take minutes
    assert queued_s < 15
    assert ran_s < 30


def test_sigterm_ends_it_at_once_whatever_waits(tmp_path: Path) -> None:
    standin = StandinProcess("--bridge", "init")
    standin.start()
    agents = Agents(standin, tmp_path)
    try:
        create_node(standin, "n", "x", tmp_path)
        agents.start("n")
        online(standin, "n")
        talk = Talk(standin)
        place = standin.url.removeprefix("http://").rstrip("/")
        reader = http.client.HTTPConnection(place, timeout=10)
        login = {"Authorization": "Basic " + base64.b64encode(f"admin:{standin.token}".encode()).decode()}
        path = f"/provisioner-bridge/events?owner={talk.owner}&epoch={talk.epoch}&since={talk.seq + 10}&wait=50"
        reader.request("GET", path, headers=login)
        began = time.monotonic()
        assert standin.stop() == 0
        assert time.monotonic() - began < 10  # a fifth of what the reader asked for
        reader.close()
    finally:
        standin.stop()
        agents.end()
