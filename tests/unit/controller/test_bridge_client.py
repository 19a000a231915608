"""The bridge's client: batching, the long poll's own thread, and answers that are not the protocol's."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from provisioner.controller import bridge_script
from provisioner.controller.bridge_answers import Installation
from provisioner.controller.bridge_client import BridgeClient
from provisioner.controller.bridge_script import content, read_marker, render_init, render_removal, render_script
from provisioner.controller.port import (
    BridgeMode,
    BuildFinished,
    BuildStarted,
    FailOutcome,
    ItemBuildable,
    ItemLeft,
    NodeOffline,
    NodeOnline,
    NodeOrder,
)
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, QueueItem, RequestKey

ITEM = {
    "id": 7,
    "since_ms": 70,
    "buildable_ms": 71,
    "task": "job/x/",
    "job": "x",
    "kind": "freestyle",
    "label": "maven&&linux",
    "build_url": None,
    "why": "because",
    "causes": ["Started by user a"],
    "parameters": {"P": "v"},
}
NODE = {
    "name": "maven-1",
    "online": True,
    "busy": True,
    "accepting": False,
    "started": True,
    "finished": False,
    "queue_id": 7,
    "build_url": "job/x/1/",
    "offline_cause": None,
    "known": False,
}
HELLO = {
    "epoch": "e",
    "seq": 5,
    "session": "s",
    "version": "2.460",
    "bridge": "1.0.0",
    "mode": "script",
    "quieting_down": False,
    "items": [ITEM],
    "nodes": [NODE],
}


def order(name: str = "maven-1") -> NodeOrder:
    return NodeOrder(name=name, owner="o", labels=("maven",), remote_fs="/r", request=item())


def item() -> QueueItem:
    return QueueItem(
        key=RequestKey(controller="main", queue_id=7, since_ms=70, task="job/x/"),
        kind=ItemKind.FREESTYLE,
        job="x",
        label="maven&&linux",
        why="because",
        causes=("Started by user a",),
        parameters={"P": "v"},
        buildable_ms=71,
    )


class ScriptedHttp:
    """Answers what it is told to; `hold` makes `apply` wait until `release`."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.batches: list[list[str]] = []
        self.asked: list[str] = []
        self.apply: Callable[[dict[str, Any]], dict[str, Any]] = lambda op: {"ok": True, "secret": op["name"]}
        self.release = threading.Event()
        self.release.set()
        self.entered = threading.Event()
        self.polled = threading.Event()

    def get(self, path: str, *, timeout_s: float, op: str) -> Any:
        self.asked.append(path)
        if op == "bridge_events":
            self.entered.set()
            assert self.polled.wait(10)
        return self._answer(op)

    def post(self, path: str, json_body: Any, *, timeout_s: float, op: str) -> Any:
        if op != "bridge_apply":
            return self._answer(op)
        self.batches.append([each.get("name", "") for each in json_body["ops"]])
        self.entered.set()
        assert self.release.wait(10)
        if op in self.answers:
            return self._answer(op)
        return {"results": [self.apply(each) for each in json_body["ops"]]}

    def script(self, groovy: str, *, timeout_s: float) -> str:
        answer: str = self._answer("script")
        return answer

    def _answer(self, op: str) -> Any:
        answer = self.answers[op]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def http() -> ScriptedHttp:
    return ScriptedHttp()


@pytest.fixture
async def client(http: ScriptedHttp) -> AsyncIterator[BridgeClient]:
    client = BridgeClient(http, controller="main", user="u", owner="o", parameters=("P",))
    yield client
    http.release.set()
    http.polled.set()
    await client.close()


async def test_the_first_op_goes_at_once_and_those_that_come_meanwhile_go_together(
    client: BridgeClient, http: ScriptedHttp
) -> None:
    http.release.clear()
    first = asyncio.create_task(client.register(order("a")))
    await asyncio.to_thread(http.entered.wait, 10)
    others = [asyncio.create_task(client.register(order(name))) for name in ("b", "c", "d")]
    await asyncio.sleep(0)
    http.release.set()
    secrets = [r.secret for r in await asyncio.gather(first, *others)]
    assert secrets == ["a", "b", "c", "d"]
    assert http.batches == [["a"], ["b", "c", "d"]]


async def test_the_long_poll_holds_up_no_op(client: BridgeClient, http: ScriptedHttp) -> None:
    http.answers["bridge_events"] = {"epoch": "e", "seq": 9, "events": []}
    poll = asyncio.create_task(client.events(epoch="e", since=5, wait_s=25))
    await asyncio.to_thread(http.entered.wait, 10)
    assert (await client.register(order("a"))).secret == "a"
    assert not poll.done()
    http.polled.set()
    assert (await poll).seq == 9
    assert http.asked == ["provisioner-bridge/events?owner=o&epoch=e&since=5&wait=25"]


async def test_one_refused_op_leaves_its_neighbours_alone(client: BridgeClient, http: ScriptedHttp) -> None:
    http.release.clear()
    http.apply = lambda op: (
        {"ok": False, "code": 409, "error": "taken"} if op["name"] == "b" else {"ok": True, "secret": "s"}
    )
    calls = [asyncio.create_task(client.register(order(name))) for name in ("a", "b", "c")]
    await asyncio.to_thread(http.entered.wait, 10)
    http.release.set()
    a, b, c = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(b, ControllerError)
    assert (b.code, b.retryable) == (409, False)
    assert "register b: taken" in b.message
    assert not isinstance(a, BaseException)
    assert not isinstance(c, BaseException)


async def test_a_failed_request_fails_its_ops_and_not_the_next(client: BridgeClient, http: ScriptedHttp) -> None:
    http.answers["bridge_apply"] = ControllerError("away", code=0, retryable=True)
    with pytest.raises(ControllerError, match="away"):
        await client.register(order())
    del http.answers["bridge_apply"]
    assert (await client.register(order())).secret == "maven-1"


async def test_a_cancelled_caller_does_not_disturb_the_others(client: BridgeClient, http: ScriptedHttp) -> None:
    http.release.clear()
    first = asyncio.create_task(client.register(order("a")))
    await asyncio.to_thread(http.entered.wait, 10)
    second = asyncio.create_task(client.register(order("b")))
    third = asyncio.create_task(client.register(order("c")))
    await asyncio.sleep(0)
    second.cancel()
    http.release.set()
    assert [(await first).secret, (await third).secret] == ["a", "c"]


async def test_closing_lets_waiting_ops_go(http: ScriptedHttp) -> None:
    client = BridgeClient(http, controller="main", user="u", owner="o")
    http.release.clear()
    calls = [asyncio.create_task(client.register(order(name))) for name in ("a", "b")]
    await asyncio.to_thread(http.entered.wait, 10)
    late = asyncio.create_task(client.register(order("late")))
    await asyncio.sleep(0)
    await client.close()
    for result in await asyncio.gather(*calls, late, return_exceptions=True):
        assert isinstance(result, ControllerError)
        assert result.retryable
    with pytest.raises(ControllerError, match="closed"):
        await client.register(order())
    http.release.set()


async def test_a_hello_becomes_a_snapshot(client: BridgeClient, http: ScriptedHttp) -> None:
    http.answers["bridge_hello"] = HELLO
    hello = await client.hello()
    assert (hello.epoch, hello.seq, hello.unknown) == ("e", 5, frozenset({"maven-1"}))
    assert hello.snapshot.items == (item(),)
    info = hello.snapshot.info
    assert (info.name, info.version, info.session, info.mode, info.user) == (
        "main", "2.460", "s", BridgeMode.SCRIPT, "u",
    )  # fmt: skip
    node = hello.snapshot.nodes[0]
    assert (node.name, node.busy, node.accepting, node.started_once, node.known) == (
        "maven-1",
        True,
        False,
        True,
        False,
    )


async def test_events_become_observations(client: BridgeClient, http: ScriptedHttp) -> None:
    http.polled.set()
    http.answers["bridge_events"] = {
        "epoch": "e",
        "seq": 20,
        "events": [
            {"seq": 11, "type": "buildable", "item": ITEM},
            {"seq": 12, "type": "online", "node": "n"},
            {"seq": 13, "type": "left", "id": 7, "since_ms": 70, "cancelled": False, "node": "n"},
            {"seq": 14, "type": "started", "node": "n", "queue_id": 7, "build_url": "job/x/1/"},
            {"seq": 15, "type": "finished", "node": "n", "queue_id": 7, "failed": True, "lost": True},
            {"seq": 16, "type": "offline", "node": "n", "cause": "c"},
            {"seq": 17, "type": "gone", "node": "n"},
            {"seq": 18, "type": "of a later version"},
        ],
    }
    batch = await client.events(epoch="e", since=10)
    assert (batch.seq, batch.resync) == (20, False)
    assert batch.observations == (
        ItemBuildable(item=item()),
        NodeOnline(name="n"),
        ItemLeft(queue_id=7, since_ms=70, cancelled=False, node="n"),
        BuildStarted(name="n", queue_id=7, build_url="job/x/1/"),
        BuildFinished(name="n", queue_id=7, failed=True, lost=True),
        NodeOffline(name="n", cause="c"),
        NodeOffline(name="n", cause="the node was deleted"),
    )


@pytest.mark.parametrize(
    "answer",
    [{"resync": True, "epoch": "e", "seq": 3}, {"epoch": "e", "seq": 3, "events": [{"type": "quiet", "on": True}]}],
)
async def test_a_gap_and_a_quiet_controller_ask_for_a_snapshot(
    client: BridgeClient, http: ScriptedHttp, answer: object
) -> None:
    http.polled.set()
    http.answers["bridge_events"] = answer
    assert (await client.events(epoch="e", since=1)).resync


def _without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k != key}


@pytest.mark.parametrize(
    "answer",
    [
        None, [], "text", 5,
        *(_without(HELLO, key) for key in HELLO),
        *({**HELLO, "items": [_without(ITEM, key)]} for key in ("id", "since_ms", "task", "job", "kind", "parameters")),
        *({**HELLO, "nodes": [_without(NODE, key)]} for key in ("name", "online", "busy", "known")),
        {**HELLO, "items": [{**ITEM, "id": True}]}, {**HELLO, "items": [{**ITEM, "kind": "odd"}]},
        {**HELLO, "items": [{**ITEM, "parameters": {"P": 5}}]}, {**HELLO, "mode": "odd"},
    ],
)  # fmt: skip
async def test_a_malformed_answer_is_a_controller_error(
    client: BridgeClient, http: ScriptedHttp, answer: object
) -> None:
    http.answers["bridge_hello"] = answer
    with pytest.raises(ControllerError, match="not of its protocol"):
        await client.hello()


@pytest.mark.parametrize("results", [None, {}, {"results": []}, {"results": [5]}, {"results": [{}]}])
async def test_malformed_results_are_controller_errors(
    client: BridgeClient, http: ScriptedHttp, results: object
) -> None:
    http.answers["bridge_apply"] = results
    with pytest.raises(ControllerError, match="not of its protocol"):
        await client.register(order())


async def test_the_outcome_of_a_failure_is_told(client: BridgeClient, http: ScriptedHttp) -> None:
    http.apply = lambda _op: {"ok": True, "outcome": "not_built", "build_url": "job/x/1/"}
    arguments: dict[str, Any] = {"reason": "r", "message": "m", "lines": [], "retryable": False}
    assert await client.fail(item(), **arguments) == (FailOutcome.NOT_BUILT, "job/x/1/")
    http.apply = lambda _op: {"ok": True, "outcome": "odd", "build_url": None}
    with pytest.raises(ControllerError, match="outcome"):
        await client.fail(item(), **arguments)


async def test_a_controller_without_the_bridge_has_no_status(client: BridgeClient, http: ScriptedHttp) -> None:
    http.answers["bridge_status"] = ControllerError("not there", code=404)
    assert await client.status() is None
    http.answers["bridge_status"] = ControllerError("forbidden", code=403)
    with pytest.raises(ControllerError, match="forbidden"):
        await client.status()


async def test_a_bridge_of_another_protocol_is_refused_clearly(client: BridgeClient, http: ScriptedHttp) -> None:
    http.answers["bridge_status"] = {
        "bridge": "3.0.0", "protocol": [2, 3], "mode": "init", "session": "s", "epoch": "e",
        "listeners": {"queue": 1}, "events_lost": 0, "readers": 0, "owners": ["o"],
    }  # fmt: skip
    with pytest.raises(ControllerError, match=r"bridge 3\.0\.0 .* speaks protocol 2, 3 and this sidecar 1"):
        await client.status()


async def test_an_install_believes_only_the_marker(client: BridgeClient, http: ScriptedHttp) -> None:
    http.answers["script"] = 'warning\nPROVISIONER-BRIDGE {"installed":true,"found":null}\n'
    assert await client.install() == Installation(done=True)
    http.answers["script"] = 'PROVISIONER-BRIDGE {"installed":false,"found":"1.0.0"}'
    assert await client.install() == Installation(done=False)
    http.answers["script"] = 'PROVISIONER-BRIDGE {"installed":false,"found":"1.0.0","used_by":["prod-b"]}'
    assert await client.install() == Installation(done=False, used_by=("prod-b",))
    http.answers["script"] = "startup failed:\nScript1.groovy: 1: unexpected token\n\tat x"
    with pytest.raises(ControllerError, match="startup failed"):
        await client.install()


def test_the_content_is_another_for_every_change_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    now, source = content(), bridge_script._source()
    assert re.fullmatch(r"[0-9a-f]{12}", now)
    for script in (render_script(owner="a", holder="h"), render_init(user="u", owners=["a"])):
        assert json.loads(base64.b64decode(script.split("PARAMETERS = '")[1].split("'")[0]))["content"] == now
    monkeypatch.setattr(bridge_script, "_source", lambda: source.replace("'1.", "'2.", 1))
    assert content() != now


def test_the_stand_ins_bridge_is_of_the_same_version() -> None:
    twin = Path(__file__).parents[3] / "jenkins-test" / "standin" / "bridge.py"
    (told,) = re.findall(r'^VERSION = "(.+)"$', twin.read_text(), re.MULTILINE)
    assert f"String VERSION = '{told}'" in bridge_script._source()


def test_nothing_from_outside_becomes_code() -> None:
    evil = "x'; System.exit(1); '\n${1}"
    plain, filled = render_script().splitlines(), render_init(user=evil, owners=[evil]).splitlines()
    changed = [(a, b) for a, b in zip(plain, filled, strict=True) if a != b]
    assert len(changed) == 1
    constant = changed[0][1].split("'")[1]
    assert changed[0][1] == f"String PROVISIONER_BRIDGE_PARAMETERS = '{constant}'"
    told = json.loads(base64.b64decode(constant, validate=True))
    assert (told["mode"], told["user"], told["owners"]) == ("init", evil, [evil])


def test_the_removal_is_the_same_script() -> None:
    constant = next(line for line in render_removal().splitlines() if "PROVISIONER_BRIDGE_PARAMETERS = " in line)
    assert json.loads(base64.b64decode(constant.split("'")[1])) == {"verb": "remove"}


@pytest.mark.parametrize("answer", ["", "PROVISIONER-BRIDGE [1]", "PROVISIONER-BRIDGE {", "<html>"])
def test_an_answer_without_a_marker_is_an_error(answer: str) -> None:
    with pytest.raises(ControllerError, match="script failed"):
        read_marker(answer)
