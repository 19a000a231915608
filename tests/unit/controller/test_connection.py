"""Which way to a controller is taken, and what the watch tells of outages and restarts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from provisioner.controller import bridge_presence
from provisioner.controller.bridge_answers import EventBatch
from provisioner.controller.bridge_script import content
from provisioner.controller.connection import Connection
from provisioner.controller.port import (
    BridgeMode,
    BuildStarted,
    FailOutcome,
    ItemLeft,
    NodeOrder,
    Observation,
    Snapshot,
    Unreachable,
)
from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, QueueItem, RequestKey
from tests.unit.controller.scripted_controller import JENKINS, Asked, Script
from tests.unit.controller.small_jenkins import SmallJenkins

ITEM = QueueItem(
    key=RequestKey(controller="main", queue_id=7, since_ms=1007, task="job/f/"),
    kind=ItemKind.FREESTYLE,
    job="f",
    label="maven",
)
ORDER = NodeOrder(name="maven-x", owner="prod", labels=("maven",), remote_fs="/home/j", request=ITEM)


class SmallBridge:
    """The bridge behind the scripted server: absent until a script puts it in."""

    def __init__(self, script: Script, *, installed: bool = False, mode: str = "script") -> None:
        self.installed = installed
        self.mode = mode
        self.epoch = 1
        self.session = JENKINS["X-Jenkins-Session"]
        self.events: list[list[dict[str, Any]] | str] = []
        self.nodes: list[dict[str, Any]] = []
        self.ops: list[dict[str, Any]] = []
        self.installs = 0
        self.protocol = [1]
        self.content = content()
        self.used_by: list[str] = []
        self.after_install: Callable[[], None] = lambda: None
        script.call("POST", "/scriptText", self._install)
        for method, path, answer in (
            ("GET", "status", self._status),
            ("POST", "hello", self._hello),
            ("GET", "events", self._events),
            ("POST", "apply", self._apply),
        ):
            script.call(method, f"/provisioner-bridge/{path}", self._there(answer))

    def _there(self, answer: Any) -> Any:
        def answering(asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
            if not self.installed:
                return 404, JENKINS, b"<html>"
            if answer == self._hello and 1 not in self.protocol:
                refused = {"error": "protocol", "speaks": self.protocol}
                return 409, {"Content-Type": "application/json"}, json.dumps(refused).encode()
            body = answer(asked)
            if body is None:
                self.installed = False
                return 404, JENKINS, b"<html>"
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

        return answering

    def _install(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        self.installs += 1
        fresh, self.installed = not self.installed, True
        self.epoch += fresh
        self.after_install()
        said = json.dumps({"installed": fresh, **({"used_by": self.used_by} if self.used_by else {})})
        return 200, {"Content-Type": "text/plain"}, f"PROVISIONER-BRIDGE {said}\n".encode()

    def _status(self, asked: Asked) -> dict[str, Any]:
        return {
            "bridge": "1.0.0", "protocol": self.protocol, "mode": self.mode, "session": self.session,
            "epoch": f"e{self.epoch}", "content": self.content,
            "listeners": {}, "events_lost": 0, "readers": 0, "owners": [],
        }  # fmt: skip

    def _hello(self, asked: Asked) -> dict[str, Any]:
        return {
            "epoch": f"e{self.epoch}", "seq": 10, "session": self.session, "version": "2.460", "bridge": "1.0.0",
            "mode": self.mode, "quieting_down": False, "items": [], "nodes": self.nodes,
        }  # fmt: skip

    def _events(self, asked: Asked) -> dict[str, Any] | None:
        told = self.events.pop(0) if self.events else []
        if told == "lost":
            return None
        if told == "resync":
            return {"resync": True, "epoch": f"e{self.epoch}", "seq": 10}
        return {"epoch": f"e{self.epoch}", "seq": int(asked.query["since"]) + len(told), "events": told}

    def _apply(self, asked: Asked) -> dict[str, Any]:
        ops = json.loads(asked.body)["ops"]
        self.ops += ops
        known: dict[str, dict[str, object]] = {
            "register": {"secret": "s"},
            "adopt": {"exists": True},
            "remove": {"existed": True},
            "fail": {"outcome": "not_built", "build_url": "job/f/1/"},
        }
        return {"results": [{"ok": True, **known.get(op["op"], {})} for op in ops]}


class Sleeps(list[float]):
    """Does not sleep, and remembers for how long."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


def connection(rest: Rest, bridge: str, sleeps: Sleeps, **more: Any) -> Connection:
    return Connection(rest, owner="prod", bridge=bridge, poll_interval_s=1.0, sleep=sleeps, **more)


async def first(watch: AsyncIterator[Observation], count: int) -> list[Observation]:
    seen = []
    async with aclosing(watch) as watching:  # type: ignore[type-var]
        async for one in watching:
            seen.append(one)
            if len(seen) == count:
                break
    return seen


def kinds(seen: list[Observation]) -> list[str]:
    return [type(x).__name__ for x in seen]


# -- the choice


async def test_off_never_asks_for_a_bridge(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller, installed=True)
    made = connection(rest, "off", sleeps)
    assert (await made.open()).mode is BridgeMode.OFF
    assert bridge.installs == 0
    assert controller.paths() == ["/api/json"]
    await made.close()


async def test_auto_takes_the_administrators_bridge_without_a_script(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller, installed=True, mode="init")
    made = connection(rest, "auto", sleeps)
    assert (await made.open()).mode is BridgeMode.INIT
    assert bridge.installs == 0
    await made.close()


async def test_auto_puts_the_bridge_in_where_it_may(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller)
    made = connection(rest, "auto", sleeps)
    assert (await made.open()).mode is BridgeMode.SCRIPT
    assert bridge.installs == 1
    assert made.info is not None
    await made.close()


@pytest.mark.parametrize("replaced", [True, False])
async def test_a_bridge_of_another_protocol_is_replaced_or_refused_clearly(
    rest: Rest, controller: Script, sleeps: Sleeps, replaced: bool
) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller, installed=True)
    bridge.protocol = [9]
    if replaced:
        bridge.after_install = lambda: setattr(bridge, "protocol", [1])
    made = connection(rest, "script", sleeps)
    if replaced:
        assert (await made.open()).mode is BridgeMode.SCRIPT
    else:
        with pytest.raises(ControllerError, match="speaks protocol 9 and this sidecar 1"):
            await made.open()
    assert bridge.installs == 1
    await made.close()
    demanded = connection(rest, "init", sleeps)
    bridge.protocol, bridge.mode, bridge.installs = [9], "init", 0
    with pytest.raises(ControllerError, match="update the older of the two"):
        await demanded.open()
    assert bridge.installs == 0
    await demanded.close()


async def test_a_bridge_that_another_protocols_took_the_place_of_is_chosen_anew(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller, installed=True)
    bridge.events = ["resync"]
    made = connection(rest, "script", sleeps)
    async with aclosing(made.watch()) as watching:  # type: ignore[type-var]
        assert isinstance(await anext(watching), Snapshot)
        bridge.protocol = [9]
        told = await anext(watching)
    assert isinstance(told, Unreachable)
    assert "speaks protocol 9 and this sidecar 1" in told.message
    await made.close()


@pytest.mark.parametrize("mode", ["init", "script"])
@pytest.mark.parametrize("same", [True, False])
async def test_another_releases_bridge_will_do_and_is_told(
    rest: Rest, controller: Script, sleeps: Sleeps, monkeypatch: pytest.MonkeyPatch, mode: str, same: bool
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(bridge_presence, "_log", log)  # the program's own is kept from its first use on
    SmallJenkins(controller)
    bridge = SmallBridge(controller, installed=True, mode=mode)
    bridge.content = content() if same else "0123456789ab"
    bridge.used_by = ["prod-b"]
    made = connection(rest, "auto", sleeps)
    assert (await made.open()).mode.value == mode
    told = [call.kwargs["then"] for call in log.calls if call.args == ("bridge.other_release",)]
    then = "`provisioner bridge print`" if mode == "init" else "stays while prod-b works with it"
    assert (told == []) if same else (then in told[0])
    await made.close()


async def test_auto_does_without_where_it_may_not(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    controller.on("POST", "/scriptText", 403, b"ci is missing the Overall/Administer permission")
    made = connection(rest, "auto", sleeps)
    assert (await made.open()).mode is BridgeMode.OFF
    await made.close()


async def test_auto_does_without_where_the_bridge_serves_another_account(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    controller.on("GET", "/provisioner-bridge/status", 403, {"error": "account ci is not the one"})
    made = connection(rest, "auto", sleeps)
    assert (await made.open()).mode is BridgeMode.OFF
    await made.close()


async def test_an_outage_is_no_reason_to_do_without(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    controller.on("GET", "/provisioner-bridge/status", 503, b"<html>", {})
    made = connection(rest, "auto", sleeps)
    with pytest.raises(ControllerError) as caught:
        await made.open()
    assert caught.value.retryable
    assert made.info is None
    await made.close()


async def test_a_demanded_bridge_is_not_done_without(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    controller.on("POST", "/scriptText", 403, b"ci is missing the Overall/Administer permission")
    for wanted, problem in (("script", "Overall/Administer"), ("init", "provisioner bridge print")):
        made = connection(rest, wanted, sleeps)
        with pytest.raises(ControllerError, match=problem):
            await made.open()
        await made.close()


# -- the watch


async def test_the_watch_without_bridge_is_a_snapshot_at_every_poll(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    made = connection(rest, "off", sleeps)
    assert kinds(await first(made.watch(), 3)) == ["Snapshot"] * 3
    assert sleeps == [1.0, 1.0]
    await made.close()


async def test_outages_are_told_with_growing_pauses_and_then_forgotten(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    there = controller.answers["GET", "/api/json"].pop()
    for _ in range(9):
        controller.on("GET", "/api/json", 503, b"<html>", {})
    controller.call("GET", "/api/json", there)
    queue = controller.answers["GET", "/queue/api/json"].pop()
    controller.call("GET", "/queue/api/json", queue)
    controller.on("GET", "/queue/api/json", 500, b"<html>")
    controller.call("GET", "/queue/api/json", queue)
    made = connection(rest, "off", sleeps)
    seen = await first(made.watch(), 12)
    assert kinds(seen) == ["Unreachable"] * 9 + ["Snapshot", "Unreachable", "Snapshot"]
    assert sleeps == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 1.0, 0.5]
    assert isinstance(seen[0], Unreachable)
    assert "controller main" in seen[0].message
    await made.close()


async def test_the_bridges_events_follow_its_snapshot(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller)
    bridge.events = [
        [],
        [{"seq": 11, "type": "started", "node": "maven-x", "queue_id": 7, "build_url": "job/f/1/"}],
        [{"seq": 12, "type": "left", "id": 7, "since_ms": 1007, "cancelled": False, "node": "maven-x"}],
    ]
    made = connection(rest, "auto", sleeps)
    seen = await first(made.watch(), 3)
    assert kinds(seen) == ["Snapshot", "BuildStarted", "ItemLeft"]
    assert seen[1] == BuildStarted(name="maven-x", queue_id=7, build_url="job/f/1/")
    assert isinstance(seen[2], ItemLeft)
    asked = [a.query["since"] for a in controller.asked if a.path.endswith("/events")]
    assert asked == ["10", "10", "11"]
    await made.close()


async def test_a_gap_in_the_events_is_closed_by_a_snapshot(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller)
    bridge.events = ["resync"]
    made = connection(rest, "auto", sleeps)
    assert kinds(await first(made.watch(), 2)) == ["Snapshot", "Snapshot"]
    await made.close()


@pytest.mark.parametrize("code", [0, 502, 504])
async def test_a_proxy_that_cuts_a_long_silence_is_met_by_shorter_polls_and_is_no_outage(
    rest: Rest, controller: Script, sleeps: Sleeps, code: int
) -> None:
    SmallJenkins(controller)
    SmallBridge(controller)
    now: list[float] = [0.0]
    waits: list[int] = []
    made = connection(rest, "auto", sleeps, monotonic=lambda: now[0])
    honest = made._bridge.events

    async def behind_the_proxy(*, epoch: str, since: int, wait_s: int = 25) -> EventBatch:
        waits.append(wait_s)
        now[0] += min(wait_s, 4)
        if wait_s > 4:
            raise ControllerError("cut", code=code, retryable=True)
        return await honest(epoch=epoch, since=since, wait_s=wait_s)

    made._bridge.events = behind_the_proxy  # type: ignore[method-assign]
    assert kinds(await first(made.watch(), 3)) == ["Snapshot"] * 3
    assert waits[:3] == [25, 3, 3]
    assert max(waits[1:]) == 3
    await made.close()


async def test_a_poll_that_breaks_at_once_is_an_outage(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    SmallJenkins(controller)
    SmallBridge(controller)
    made = connection(rest, "auto", sleeps)

    async def down(*, epoch: str, since: int, wait_s: int = 25) -> EventBatch:
        raise ControllerError("down", code=0, retryable=True)

    made._bridge.events = down  # type: ignore[method-assign]
    assert kinds(await first(made.watch(), 2)) == ["Snapshot", "Unreachable"]
    await made.close()


async def test_a_lost_bridge_is_put_back_and_the_truth_told_anew(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller)
    bridge.events = ["lost"]
    made = connection(rest, "auto", sleeps)
    seen = await first(made.watch(), 2)
    assert kinds(seen) == ["Snapshot", "Snapshot"]
    assert bridge.installs == 2
    assert sleeps == []
    await made.close()


async def test_a_node_that_the_new_bridge_does_not_know_is_told_as_such(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller)
    node = {
        "online": True, "busy": True, "accepting": True, "started": False, "finished": False, "queue_id": None,
        "build_url": None, "offline_cause": None,
    }  # fmt: skip
    bridge.nodes = [{**node, "name": "maven-x", "known": False}, {**node, "name": "maven-y", "known": True}]
    made = connection(rest, "auto", sleeps)
    await made.open()
    assert [(n.name, n.known) for n in (await made.snapshot()).nodes] == [("maven-x", False), ("maven-y", True)]
    await made.close()


async def test_a_restarted_controller_is_asked_for_its_bridge_again(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    queue = controller.answers["GET", "/queue/api/json"].pop()
    controller.call("GET", "/queue/api/json", queue)
    controller.on("GET", "/queue/api/json", 200, {"items": []}, {**JENKINS, "X-Jenkins-Session": "bbbb2222"})
    bridge = SmallBridge(controller)
    granted = controller.answers["POST", "/scriptText"].pop()
    controller.on("POST", "/scriptText", 403, b"ci is missing the Overall/Administer permission")
    controller.call("POST", "/scriptText", granted)
    made = connection(rest, "auto", sleeps)
    seen = await first(made.watch(), 2)
    modes = [x.info.mode for x in seen if isinstance(x, Snapshot)]
    assert modes == [BridgeMode.OFF, BridgeMode.SCRIPT]
    assert bridge.installs == 1
    await made.close()


# -- acts


async def test_acts_go_to_the_bridge_where_there_is_one(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    jenkins = SmallJenkins(controller)
    bridge = SmallBridge(controller)
    made = connection(rest, "auto", sleeps)
    await made.open()
    assert (await made.register(ORDER)).secret == "s"
    assert await made.adopt(ORDER) is True
    await made.tell("maven-x", ITEM, ["line"])
    await made.bar("maven-x")
    await made.remove("maven-x", ["bye"])
    assert await made.fail(ITEM, "connect_timeout", "m", []) is FailOutcome.NOT_BUILT
    assert await made.fail(ITEM, "image_not_found", "m", []) is FailOutcome.NOT_BUILT
    assert [op["op"] for op in bridge.ops] == ["register", "adopt", "log", "bar", "remove", "fail", "fail"]
    assert [op["retryable"] for op in bridge.ops[-2:]] == [True, False]
    assert jenkins.nodes == {}
    await made.close()


async def test_acts_without_a_bridge_go_to_rest(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    jenkins = SmallJenkins(controller)
    made = connection(rest, "off", sleeps)
    await made.open()
    await made.register(ORDER)
    assert await made.adopt(ORDER) is True
    await made.tell("maven-x", ITEM, ["line"])
    await made.bar("maven-x")
    assert jenkins.nodes["maven-x"]["barred"] is True
    await made.remove("maven-x")
    assert jenkins.nodes == {}
    await made.close()


async def test_an_act_on_a_bridge_that_a_restart_took_may_be_tried_again(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    bridge = SmallBridge(controller)
    made = connection(rest, "auto", sleeps)
    await made.open()
    bridge.installed = False
    with pytest.raises(ControllerError, match="has lost the bridge") as caught:
        await made.register(ORDER)
    assert (caught.value.code, caught.value.retryable) == (503, True)
    await made.close()


async def test_agent_jar_is_read_once_for_each_start_of_the_controller(
    rest: Rest, controller: Script, sleeps: Sleeps
) -> None:
    SmallJenkins(controller)
    controller.on("GET", "/jnlpJars/agent.jar", 200, b"PK\x03\x04one", {})
    controller.on("GET", "/jnlpJars/agent.jar", 200, b"PK\x03\x04two", {})
    made = connection(rest, "off", sleeps)
    await made.open()
    assert [await made.agent_jar() for _ in range(2)] == [b"PK\x03\x04one"] * 2
    controller.answers["GET", "/api/json"] = []
    controller.on("GET", "/api/json", 200, {"quietingDown": False}, {**JENKINS, "X-Jenkins-Session": "bbbb2222"})
    await made.open()
    assert await made.agent_jar() == b"PK\x03\x04two"
    await made.close()


async def test_a_page_is_no_agent_jar(rest: Rest, controller: Script, sleeps: Sleeps) -> None:
    controller.on("GET", "/jnlpJars/agent.jar", 200, b"<html>", {})
    made = connection(rest, "off", sleeps)
    with pytest.raises(ControllerError, match="is no archive"):
        await made.agent_jar()
    await made.close()


async def test_one_that_is_not_opened_speaks_to_nobody(controller: Script) -> None:
    http = Rest(name="main", url=controller.url, user="ci", token="t")
    made = Connection(http, owner="prod", bridge="auto", poll_interval_s=1.0)
    assert made.info is None
    assert made.requests_made() == {}
    await made.close()
    assert controller.asked == []
