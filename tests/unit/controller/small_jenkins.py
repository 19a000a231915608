"""A controller of a few dozen lines behind the scripted server: nodes, a queue, `why` as Jenkins words it."""
# ruff: noqa: RUF001  (Jenkins prints curly quotes)

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from tests.unit.controller.scripted_controller import JENKINS, Asked, Script

HTML = b"<html>"
STORE = "/credentials/store/system/domain/_"
PLACEHOLDER_TASK = "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask"


class SmallJenkins:
    """Labels are single words here; a node matches by its labels or its name."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.nodes: dict[str, dict[str, Any]] = {}
        self.waiting: dict[int, dict[str, Any]] = {}
        self.left: dict[int, dict[str, Any]] = {}
        self.builds: dict[str, str] = {}  # descriptions by URL
        self.created_forms: list[dict[str, Any]] = []
        script.on("GET", "/api/json", 200, {"quietingDown": False})
        script.call("GET", "/computer/api/json", lambda _a: self._json({"computer": self._computers()}))
        script.call("GET", "/queue/api/json", lambda _a: self._json({"items": self._items()}))
        script.call("POST", "/computer/doCreateItem", self._create)
        script.call("POST", "/queue/cancelItem", self._cancel)
        self.entries: dict[str, str] = {}  # XML by id
        script.call("POST", f"{STORE}/createCredentials", self._create_entry)
        script.call("GET", f"{STORE}/api/json", lambda _a: self._json({"credentials": self._entries()}))

    # -- what a test arranges

    def node(self, name: str, labels: str = "", description: str = "", *, online: bool = False) -> dict[str, Any]:
        node = self.nodes[name] = {
            "labels": [*labels.split(), name],
            "description": description,
            "offline": not online,
            "barred": False,
            "cause": "",
            "running": None,
            "dials": False,
        }
        at = f"/computer/{name}"
        for method, path, answering in (
            ("GET", f"{at}/api/json", self._one),
            ("GET", f"{at}/jenkins-agent.jnlp", self._launch_file),
            ("POST", f"{at}/doDelete", self._delete),
            ("POST", f"{at}/toggleOffline", self._toggle),
        ):
            self.script.answers.pop((method, path), None)
            self.script.call(method, path, answering)
        return node

    def pipeline(self, number: int, label: str | None, job: str = "p") -> None:
        url = f"job/{job}/{number}/"
        self._wait(number, label, {"_class": PLACEHOLDER_TASK, "name": f"part of {job} #{number}", "url": url})
        self._build(url)

    def freestyle(self, number: int, label: str | None, job: str = "f") -> None:
        task = {
            "_class": "hudson.model.FreeStyleProject",
            "fullName": job,
            "name": job,
            "url": f"http://elsewhere/job/{job}/",
            "labelExpression": label,
        }
        self._wait(number, label, task)

    def start(self, number: int, node: str) -> str:
        """A waiting item becomes a build on a node; the build's URL."""
        item = self.waiting.pop(number)
        url = str(item["task"]["url"])
        if "Placeholder" not in item["task"]["_class"]:
            url = f"{url}{number}/"
            self._build(url.removeprefix("http://elsewhere/"))
        running: dict[str, Any] = {"url": url}
        if "Placeholder" not in item["task"]["_class"]:
            running |= {"queueId": number, "building": True, "builtOn": node, "description": None}
        self.nodes[node]["running"] = running
        self.left[number] = {**item, "_class": "hudson.model.Queue$LeftItem", "executable": running}
        return url.removeprefix("http://elsewhere/")

    # -- what it answers

    def _wait(self, number: int, label: str | None, task: dict[str, Any]) -> None:
        self.waiting[number] = {
            "_class": "hudson.model.Queue$BuildableItem",
            "id": number,
            "inQueueSince": 1000 + number,
            "buildable": True,
            "buildableStartMilliseconds": 2000 + number,
            "task": task,
            "label": label,
        }
        self.script.call("GET", f"/queue/item/{number}/api/json", self._one_item)

    def _build(self, url: str) -> None:
        self.builds[url] = ""
        self.script.call(
            "GET", f"/{url}api/json", lambda a: self._json({"description": self.builds[a.path[1:-8]] or None})
        )
        self.script.call("POST", f"/{url}submitDescription", self._describe)

    @staticmethod
    def _json(body: object) -> tuple[int, Mapping[str, str], bytes]:
        return 200, {**JENKINS, "Content-Type": "application/json;charset=utf-8"}, json.dumps(body).encode()

    def _why(self, label: str | None) -> tuple[str, bool]:
        if label is None:
            return "Waiting for next available executor", False
        if not self.nodes:
            return "Waiting for next available executor", True
        matching = {n: v for n, v in self.nodes.items() if label in v["labels"]}
        if not matching:
            return f"There are no nodes with the label ‘{label}’", True
        name = next(iter(matching)) if len(matching) == 1 else None
        if all(v["offline"] or v["barred"] for v in matching.values()):
            return (f"‘{name}’ is offline" if name else f"All nodes of label ‘{label}’ are offline"), True
        return f"Waiting for next available executor on ‘{name or label}’", False

    def _items(self) -> list[dict[str, Any]]:
        found = []
        for item in reversed(self.waiting.values()):
            why, stuck = self._why(item["label"])
            found.append({**item, "why": why, "stuck": stuck})
        return found

    def _computers(self) -> list[dict[str, Any]]:
        built_in = {"_class": "hudson.model.Hudson$MasterComputer", "displayName": "Built-In Node", "offline": False}
        return [built_in, *(self._computer(name) for name in self.nodes)]

    def _computer(self, name: str) -> dict[str, Any]:
        node = self.nodes[name]
        return {
            "_class": "hudson.slaves.SlaveComputer",
            "displayName": name,
            "description": node["description"],
            "assignedLabels": [{"name": x} for x in node["labels"]],
            "offline": node["offline"] or node["barred"],
            "temporarilyOffline": node["barred"],
            "launchSupported": node["dials"],
            "offlineCauseReason": node["cause"],
            "idle": node["running"] is None,
            "executors": [{"currentExecutable": node["running"]}],
        }

    def _one(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        name = asked.path.split("/")[2]
        return self._json(self._computer(name)) if name in self.nodes else (404, JENKINS, HTML)

    def _one_item(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        number = int(asked.path.split("/")[3])
        found = self.waiting.get(number) or self.left.get(number)
        return self._json(found) if found else (404, JENKINS, HTML)

    def _launch_file(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        name = asked.path.split("/")[2]
        arguments = f"<argument>{'ab' * 32}</argument><argument>{name}</argument>"
        text = f"<jnlp><application-desc>{arguments}</application-desc></jnlp>"
        return 200, {"Content-Type": "application/x-java-jnlp-file"}, text.encode()

    def entry(self, name: str, text: str) -> None:
        self.entries[name] = text
        at = f"{STORE}/credential/{name}"
        for method, path, answering in (("GET", f"{at}/api/json", self._entry), ("POST", f"{at}/doDelete", self._drop)):
            self.script.answers.pop((method, path), None)
            self.script.call(method, path, answering)

    def _entries(self) -> list[dict[str, str]]:
        told = {name: ET.fromstring(text).findtext("description") or "" for name, text in self.entries.items()}
        return [{"id": name, "description": description} for name, description in told.items()]

    def _create_entry(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        name = ET.fromstring(asked.body).findtext("id") or ""
        if name in self.entries:
            return 409, JENKINS, b""
        self.entry(name, asked.body.decode())
        return 200, JENKINS, b""

    def _entry(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        found = [e for e in self._entries() if e["id"] == asked.path.split("/")[7]]
        return self._json(found[0]) if found else (404, JENKINS, HTML)

    def _drop(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        gone = self.entries.pop(asked.path.split("/")[7], None)
        return (302, {"Location": "http://elsewhere/x"}, b"") if gone else (404, JENKINS, HTML)

    def _create(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        form = json.loads(asked.form["json"])
        if form["name"] in self.nodes:
            return 400, {**JENKINS, "X-Error": f"Agent called  {form['name']}  already exists"}, HTML
        self.created_forms.append(form)
        node = self.node(form["name"], form["labelString"], form["nodeDescription"])
        node["dials"] = form["launcher"]["$class"] == "hudson.plugins.sshslaves.SSHLauncher"
        return 302, {"Location": "http://elsewhere/computer/"}, b""

    def _delete(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        gone = self.nodes.pop(asked.path.split("/")[2], None)
        return (302, {"Location": "http://elsewhere/computer/"}, b"") if gone else (404, JENKINS, HTML)

    def _toggle(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        node = self.nodes[asked.path.split("/")[2]]
        node["barred"], node["cause"] = not node["barred"], asked.form.get("offlineMessage", "")
        return 302, {"Location": "http://elsewhere/computer/x/"}, b""

    def _cancel(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        item = self.waiting.pop(int(asked.query["id"]), None)
        if item is None:
            return 500, JENKINS, HTML
        self.left[item["id"]] = {**item, "_class": "hudson.model.Queue$LeftItem", "cancelled": True}
        return 204, {}, b""

    def _describe(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        self.builds[asked.path.removeprefix("/").removesuffix("submitDescription")] = asked.form["description"]
        return 302, {"Location": "http://elsewhere/"}, b""
