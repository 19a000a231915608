"""A controller in memory, as far as the cleanup scheduler asks it: every request is one step that a test can stop at.

`before` is called ahead of each request of a scheduler: there a test lets others act, or ends the scheduler.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

from provisioner.cleanup.facts import Policy
from provisioner.cleanup.labels import label_text, split_labels
from provisioner.cleanup.scheduler import Scheduler
from provisioner.controller.rest import Answer, Rest
from provisioner.controller.script_console import MARK
from provisioner.model.errors import ControllerError

JOB = "node-cleanup"
JOB_URL = f"http://elsewhere/job/{JOB}/"
XML = "<slave>\n  <name>{name}</name>\n  <label>{labels}</label>\n  <note>{note}</note>\n</slave>"


class KilledError(Exception):
    """kill -9, between two requests."""


@dataclass(slots=True)
class WorldNode:
    """A node with one executor."""

    xml: str
    held: str | None = None
    running: str | None = None  # URL of a build
    idle_since_ms: int = 1
    used: bool = True  # a build ran here since the last good cleaning: the truth that nobody can ask for

    @property
    def labels(self) -> tuple[str, ...]:
        return split_labels(label_text(self.xml.encode()))


@dataclass(slots=True)
class World:
    """Everything, changed by the scheduler through `rest()` and by a test directly."""

    now_ms: int = 1_000_000_000
    nodes: dict[str, WorldNode] = field(default_factory=dict)
    builds: list[dict[str, Any]] = field(default_factory=list)
    queue: list[dict[str, Any]] = field(default_factory=list)
    before: Callable[[str], None] = lambda _what: None
    asked: list[str] = field(default_factory=list)
    ids: int = 0
    session: str = "1"  # another after a restart
    quieting_down: bool = False
    concurrent: bool = True  # whether the job's builds may run side by side
    unable: bool = False  # the job never comes to the node that it is for
    guard: dict[str, int] = field(default_factory=dict)  # as `console.py` puts it into the controller

    def add(self, name: str, labels: str) -> WorldNode:
        self.nodes[name] = WorldNode(xml=XML.format(name=name, labels=labels, note="by a person"))
        return self.nodes[name]

    def scheduler(self, *, script: bool = False, **policy: Any) -> Scheduler:
        return Scheduler(
            cast("Rest", WorldRest(world=self)),
            job=JOB,
            policy=Policy(**{"retry_after_s": 0, **policy}),
            script=script,
            monotonic=lambda: self.now_ms / 1000,
            sleep=self.sleep,
        )

    # -- what others do

    def sleep(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
        self.turn()

    def relabel(self, name: str, labels: str) -> None:
        """A person saves the node's form."""
        self.nodes[name].xml = XML.format(name=name, labels=labels, note="by a person")
        self.saved(name)

    def saved(self, name: str) -> None:
        """A mark stays as long as the node has the label."""
        if "clean" not in self.nodes[name].labels:
            self.guard.pop(name, None)

    def turn(self) -> None:
        """Jenkins' own queue: what has waited long enough begins, where its node is free."""
        for item in list(self.queue):
            node = self.nodes[item["node"]]
            if self.why(item) or self.unable:
                continue
            if item["due_ms"] <= self.now_ms and node.running is None and node.held is None:
                self.queue.remove(item)
                number = len(self.builds) + 1
                url = f"{JOB_URL}{number}/"
                self.builds.append(
                    {
                        "number": number,
                        "queueId": item["id"],
                        "url": url,
                        "node": item["node"],
                        "timestamp": self.now_ms,
                        "duration": 0,
                        "building": True,
                        "result": None,
                        "description": None,
                    }
                )
                node.running = url

    def why(self, item: Mapping[str, Any]) -> str:
        """What holds an item up before it is a matter of nodes."""
        if item["due_ms"] > self.now_ms:
            return "In the quiet period"
        if not self.concurrent and any(build["building"] for build in self.builds):
            return "A build is already in progress"
        return "Jenkins is about to shut down" if self.quieting_down else ""

    def takes_clean_work(self, name: str) -> bool:
        """Whether Jenkins would give it a build that asks for `clean`."""
        node = self.nodes[name]
        fit = "clean" in node.labels and node.running is None and node.held is None
        return fit and self.guard.get(name, node.idle_since_ms) == node.idle_since_ms

    def start_build(self, name: str, url: str) -> bool:
        """Some other build takes the node, if it is free."""
        node = self.nodes[name]
        if node.running is not None or node.held is not None:
            return False
        node.running = url
        node.used = True
        return True

    def end_build(self, name: str, result: str = "SUCCESS") -> None:
        """Whatever runs there ends."""
        node = self.nodes[name]
        for build in self.builds:
            if build["url"] == node.running:
                build.update(building=False, result=result, duration=self.now_ms - build["timestamp"])
                node.used = result != "SUCCESS"
        node.running, node.idle_since_ms = None, max(self.now_ms, node.idle_since_ms + 1)


@dataclass(slots=True)
class WorldRest:
    """What `Rest` offers."""

    world: World
    name: str = "main"
    timeout_s: float = 30.0

    @property
    def session(self) -> str:
        return self.world.session

    def get(self, path: str, *, op: str, timeout_s: float | None = None) -> Any:
        return self.parsed(self.call("GET", path, op=op), path)

    def parsed(self, answer: Answer, _path: str) -> Any:
        return json.loads(answer.content)

    def script(self, groovy: str, *, timeout_s: float | None = None) -> str:
        found = re.search(r"String\('([^']+)'\.decodeBase64", groovy)
        assert found is not None
        ask = json.loads(base64.b64decode(found[1]))
        what = "idle" if "names" in ask else "describe" if "job" in ask else "relabel" if "from" in ask else "hold" if "setTemporarilyOffline(true" in groovy else "release"  # fmt: skip  # noqa: E501
        self._begin(f"script {what}")
        said = getattr(self, f"_script_{what}")(ask)
        return MARK + json.dumps(said)

    def call(
        self,
        method: str,
        path: str,
        *,
        op: str,
        timeout_s: float | None = None,
        form: Mapping[str, str] | None = None,
        xml_body: bytes | None = None,
        expect: tuple[int, ...] | None = None,
    ) -> Answer:
        parts = urlsplit(path)
        words = [unquote(word) for word in parts.path.split("/")]
        self._begin(f"{method} {parts.path}")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        match (method, words):
            case "GET", ["computer", "api", "json"]:
                return self._json({"computer": [self._computer(name) for name in self.world.nodes]})
            case "GET", ["api", "json"]:
                return self._json({"quietingDown": self.world.quieting_down})
            case "GET", ["queue", "api", "json"]:
                return self._json({"items": [self._item(item) for item in self.world.queue]})
            case "GET", ["job", _, "api", "json"]:
                return self._json(self._job())
            case "GET", ["job", _, number, "api", "json"]:
                return self._json(self._build(number))
            case "POST", ["job", _, "buildWithParameters"]:
                self._ask((form or {})["NODE"], int(query["delay"].removesuffix("sec")))
            case "POST", ["job", _, number, "submitDescription"]:
                self._build(number)["description"] = (form or {})["description"]
            case "POST", ["job", _, number, "stop"]:
                build = self._build(number)
                if build["building"]:
                    self.world.end_build(build["node"], "ABORTED")
            case "POST", ["queue", "cancelItem"]:
                self.world.queue = [i for i in self.world.queue if i["id"] != int(query["id"])]
            case "GET", ["computer", name, "config.xml"]:
                return Answer(status=200, headers={}, content=self.world.nodes[name].xml.encode())
            case "POST", ["computer", name, "config.xml"]:
                self.world.nodes[name].xml = (xml_body or b"").decode()
                self.world.saved(name)
            case "GET", ["computer", name, "api", "json"]:
                return self._json(self._computer(name))
            case "POST", ["computer", name, "changeOfflineCause"]:
                self.world.nodes[name].held = (form or {})["offlineMessage"]
            case "POST", ["computer", name, "toggleOffline"]:
                node = self.world.nodes[name]
                node.held = (form or {}).get("offlineMessage", "") if node.held is None else None
            case _:
                raise AssertionError(f"{method} {path}")
        return Answer(status=200, headers={}, content=b"")

    def _begin(self, what: str) -> None:
        self.world.before(what)
        self.world.asked.append(what)
        self.world.now_ms += 5

    def _json(self, body: object) -> Answer:
        headers = {"Date": formatdate(self.world.now_ms / 1000, usegmt=True)}
        return Answer(status=200, headers=headers, content=json.dumps(body).encode())

    def _computer(self, name: str) -> dict[str, Any]:
        node = self.world.nodes[name]
        kind = "hudson.model.Hudson$MasterComputer" if name == "Built-In Node" else "hudson.slaves.SlaveComputer"
        return {
            "_class": kind,
            "displayName": name,
            "offline": node.held is not None,
            "temporarilyOffline": node.held is not None,
            "offlineCauseReason": node.held or "",
            "assignedLabels": [{"name": label} for label in (*node.labels, name)],
            "executors": [{"currentExecutable": {"url": node.running} if node.running else None}],
            "oneOffExecutors": [],
        }

    @staticmethod
    def _named(node: str) -> list[dict[str, Any]]:
        return [{}, {"parameters": [{"name": "NODE", "value": node}]}]

    def _item(self, item: Mapping[str, Any]) -> dict[str, Any]:
        task = {"url": JOB_URL}
        why = self.world.why(item)
        return {
            "id": item["id"],
            "inQueueSince": item["since_ms"],
            "buildable": not why or "shut down" in why,  # as a real one says it of a buildable item
            "why": why,
            "task": task,
            "actions": self._named(item["node"]),
        }

    def _job(self) -> dict[str, Any]:
        builds = [{**build, "actions": self._named(build["node"])} for build in reversed(self.world.builds)]
        parameter = {"parameterDefinitions": [{"name": "NODE"}]}
        return {"url": JOB_URL, "buildable": True, "property": [{}, parameter], "allBuilds": builds}

    def _build(self, number: str) -> dict[str, Any]:
        return self.world.builds[int(number) - 1]

    def _ask(self, node: str, delay_s: int) -> None:
        world = self.world
        if not any(item["node"] == node for item in world.queue):
            world.ids += 1
            due_ms = world.now_ms + 1000 * delay_s
            world.queue.append({"id": world.ids, "node": node, "since_ms": world.now_ms, "due_ms": due_ms})

    def _script_idle(self, ask: Mapping[str, Any]) -> dict[str, Any]:
        nodes = self.world.nodes
        if "marks" in ask:
            self.world.guard = self._merged(ask)
        idle = {name: None if nodes[name].running else nodes[name].idle_since_ms for name in ask["names"]}
        return {"code": "done", "idle": idle} if "marks" in ask else idle

    def _merged(self, ask: Mapping[str, Any]) -> dict[str, int]:
        marks: dict[str, int] = {}
        for name, node in self.world.nodes.items():
            if ask["marking"] and name not in ask["skipped"] and {ask["cleanable"], ask["clean"]} <= set(node.labels):
                kept = self.world.guard.get(name)
                told = ask["marks"].get(name)
                known = [mark for mark in (kept, told) if mark is not None]
                if told is not None and told == node.idle_since_ms and node.running is None:
                    marks[name] = told
                elif known:
                    marks[name] = max(known)
        return marks

    def _script_relabel(self, ask: Mapping[str, Any]) -> dict[str, str]:
        node = self.world.nodes.get(ask["name"])
        if node is None:
            return {"code": "gone"}
        text = label_text(node.xml.encode())
        if text != ask["from"]:
            return {"code": "changed", "labels": text}
        if ask["idle"] is not None and (node.running or node.idle_since_ms != ask["idle"]):
            return {"code": "used"}
        if text != ask["to"]:
            node.xml = node.xml.replace(f"<label>{text}</label>", f"<label>{ask['to']}</label>")
            self.world.guard.pop(ask["name"], None)
            if ask["mark"] is not None:
                self.world.guard[ask["name"]] = ask["mark"]
        return {"code": "done"}

    def _script_describe(self, ask: Mapping[str, Any]) -> dict[str, str]:
        build = self._build(ask["number"])
        if (build["description"] or "") != ask["from"]:
            return {"code": "changed"}
        build["description"] = ask["to"]
        return {"code": "done"}

    def _script_hold(self, ask: Mapping[str, Any]) -> dict[str, str]:
        node = self.world.nodes[ask["name"]]
        if node.held is not None:
            return {"code": "no"}
        node.held = ask["reason"]
        return {"code": "done"}

    def _script_release(self, ask: Mapping[str, Any]) -> dict[str, str]:
        node = self.world.nodes[ask["name"]]
        if node.held != ask["reason"]:
            return {"code": "no"}
        node.held = None
        return {"code": "done"}


def refused(what: str) -> ControllerError:
    """A permission that the account lacks."""
    return ControllerError(f"{what}: the account may not", code=403)
