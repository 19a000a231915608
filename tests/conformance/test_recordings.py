"""Every recorded exchange again, in order, in the situation in which it was recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from controller import Answer

from tests.conformance.shape import differences
from tests.standin_process import AgentProcess, Agents, Asked, ask, eventually

RECORDINGS = Path(__file__).parents[1] / "recordings"
#: Held by value; of the other headers that were recorded only that they are there.
BY_VALUE = ("X-Error", "X-More-Data", "Content-Type", "WWW-Authenticate", "X-Hudson", "X-Jenkins-Agent-Protocols")
PRESENT = (
    *("X-Jenkins", "X-Jenkins-Session", "X-Text-Size", "X-Jenkins-JNLP-Port", "X-Hudson-JNLP-Port", "Location"),
    *("X-Instance-Identity", "X-Remoting-Minimum-Version"),
)
#: Present in a recording only because another program had put something in.
FOREIGN = re.compile(r"^\[provisioner\].*\n?", re.MULTILINE)
#: A `node` step says this after 15 s; whether a step waited that long is the machine's affair, not the controller's.
WAITED = re.compile(r"^Still waiting to schedule task\n(?!\[).*\n", re.MULTILINE)


def exchanges() -> list[dict[str, Any]]:
    files = sorted(RECORDINGS.glob("*.json"))
    return [exchange for file in files for exchange in json.loads(file.read_text(encoding="utf-8"))]


class Replay:
    """One run through all recordings; what was recorded under one queue id is found again under another."""

    def __init__(self, controller: Asked, agents: Agents, home: Path) -> None:
        self.controller = controller
        self.agents = agents
        self.home = str(home)
        self.ids: dict[str, str] = {}
        self.agent: AgentProcess | None = None

    def here(self, text: str) -> str:
        """A recorded text with this machine's folder in place of the recorded one."""
        return text.replace("/home/jenkins/rec-", f"{self.home}/rec-")

    def path(self, recorded: str) -> str:
        return re.sub(r"(queue/item/|cancelItem\?id=)(\d+)", lambda m: m[1] + self.ids.get(m[2], m[2]), recorded)

    def get(self, path: str) -> Any:
        return ask(self.controller, "GET", path).json()

    def prepare(self, title: str) -> None:
        """What a person did between two recorded requests."""
        if title == "create freestyle job":  # on the recorded controller there were other nodes too
            node = {
                "name": "os-q1",
                "remoteFS": "/nowhere",
                "numExecutors": 1,
                "labelString": "docker-maven",
                "mode": "EXCLUSIVE",
                "retentionStrategy": {"stapler-class": "hudson.slaves.RetentionStrategy$Always"},
                "nodeProperties": {"stapler-class-bag": "true"},
                "launcher": {"stapler-class": "hudson.slaves.JNLPLauncher"},
            }
            kind = "hudson.slaves.DumbSlave$DescriptorImpl"
            form = {"name": "os-q1", "type": kind, "json": json.dumps(node)}
            assert ask(self.controller, "POST", "computer/doCreateItem", form=form).status == 302
        elif title == "queue, as python-jenkins reads it; no static node exists":
            eventually(lambda: len(self.get("queue/api/json?tree=items[id]")["items"]) == 3, "three queue items")
        elif title == "computer, online":
            self.agent = self.agents.start("rec-n2")
            eventually(lambda: not self.get("computer/rec-n2/api/json?tree=offline")["offline"], "rec-n2 online", 30)
        elif title == "queue item that left":
            path = self.path("queue/item/8/api/json")
            eventually(lambda: self.get(path)["_class"].endswith("LeftItem"), "item 8 left")
        elif title == "build record":
            eventually(lambda: not self.get("job/rec-par/1/api/json?tree=building")["building"], "rec-par ended")
            eventually(lambda: not self.get("job/rec-p/1/api/json?tree=building")["building"], "rec-p ended", 40)
        elif title == "computer after its agent died":
            assert self.agent is not None
            self.agent.kill()
            eventually(lambda: self.get("computer/rec-n2/api/json?tree=offline")["offline"], "rec-n2 offline")

    def send(self, exchange: dict[str, Any]) -> Answer:
        request = exchange["request"]
        data = request.get("data")
        auth = None if exchange["auth"] == "none" else exchange["auth"]
        method, path, headers = exchange["method"], self.path(exchange["path"]), request.get("headers")
        if isinstance(data, dict):
            form = {key: self.here(value) for key, value in data.items()}
            return ask(self.controller, method, path, auth=auth, form=form, headers=headers)
        body = self.here(data) if data is not None else None
        return ask(self.controller, method, path, auth=auth, body=body, headers=headers)

    def compare(self, exchange: dict[str, Any], reply: Answer) -> list[str]:
        found = [] if reply.status == exchange["status"] else [f"status {reply.status}, recorded {exchange['status']}"]
        headers = {name.lower(): value for name, value in reply.headers.items()}
        for name, value in exchange["headers"].items():
            here = headers.get(name.lower())
            if name in PRESENT and here is None:
                found.append(f"header {name} is missing")
            if name in BY_VALUE and (here or "").strip().lower() != value.strip().lower():
                found.append(f"header {name}: {here!r}, recorded {value!r}")
        unrecorded = [n for n in (*PRESENT, "X-More-Data", "X-Error") if n not in exchange["headers"]]
        found += [f"header {n}: {headers[n.lower()]!r}, not recorded" for n in unrecorded if n.lower() in headers]
        if exchange["headers"].get("Location"):
            found += self._location(exchange["headers"]["Location"], headers.get("location", ""))
        return found + self._body(exchange, reply)

    def _location(self, recorded: str, here: str) -> list[str]:
        one, other = recorded.split("/", 3)[3], here.removeprefix(self.controller.url)
        item = re.fullmatch(r"queue/item/(\d+)/", one)
        same = re.fullmatch(r"queue/item/(\d+)/", other)
        if item and same:
            if self.ids.setdefault(item[1], same[1]) != same[1]:
                return [f"queue item {same[1]}, recorded again as {item[1]}, first seen as {self.ids[item[1]]}"]
            return []
        return [] if one == other else [f"Location {here}, recorded {recorded}"]

    def _body(self, exchange: dict[str, Any], reply: Answer) -> list[str]:
        body, kind = exchange["body"], exchange["headers"].get("Content-Type", "")
        if kind.startswith("application/json"):
            recorded = json.loads(self.here(body))
            return differences(recorded, reply.json())
        if kind.startswith("text/plain") and exchange["path"] != "/tcpSlaveAgentListener/":
            return self._text(self.here(body), reply.text)
        if kind in ("application/xml", "application/x-java-jnlp-file"):
            return self._text(_plain_xml(self.here(body)), _plain_xml(reply.text))
        return []

    def _text(self, recorded: str, here: str) -> list[str]:
        one, other = _steady(recorded), _steady(here)
        if "Exception" in one:  # of a stack trace the first line
            one, other = one.split("\n")[0], other.split("\n")[0]
        return [] if one == other else [f"text:\n{other}\nrecorded:\n{one}"]


def _steady(text: str) -> str:
    text = WAITED.sub("", FOREIGN.sub("", text))
    text = re.sub(r"/bin/sh -xe \S+", "/bin/sh -xe SCRIPT", text)
    return re.sub(r"\((rec-\w+) (rec-\w+)\)", lambda m: f"({' '.join(sorted(m.groups()))})", text)


def _plain_xml(text: str) -> str:
    text = re.sub(r"<argument>[0-9a-f]{64}</argument>", "<argument>SECRET</argument>", text)
    text = re.sub(r"http://[^/]+/", "http://HOST/", text)
    return re.sub(r' plugin="[^"]*"', "", re.sub(r"\s+(?=[<])|(?<=>)\s+", "", text)).replace(" />", "/>")


@pytest.mark.timeout(180)
def test_every_recorded_exchange_happens_again(controller: Asked, agents: Agents, tmp_path: Path) -> None:
    replay = Replay(controller, agents, tmp_path)
    problems = []
    for exchange in exchanges():
        replay.prepare(exchange["title"])
        reply = replay.send(exchange)
        problems += [f"{exchange['title']}: {problem}" for problem in replay.compare(exchange, reply)]
    assert not problems, "\n".join(problems)
    assert len(exchanges()) > 70
