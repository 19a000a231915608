"""Jobs, builds and nodes of either controller, by plain requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.standin_process import Asked, ask, eventually


def create_node(controller: Asked, name: str, labels: str, folder: Path, executors: int = 1) -> None:
    node = {
        "name": name,
        "remoteFS": str(folder / "agents" / name),
        "numExecutors": executors,
        "labelString": labels,
        "mode": "EXCLUSIVE",
        "retentionStrategy": {"stapler-class": "hudson.slaves.RetentionStrategy$Always"},
        "nodeProperties": {"stapler-class-bag": "true"},
        "launcher": {"stapler-class": "hudson.slaves.JNLPLauncher", "webSocket": True},
    }
    form = {"name": name, "type": "hudson.slaves.DumbSlave$DescriptorImpl", "json": json.dumps(node)}
    assert ask(controller, "POST", "computer/doCreateItem", form=form).status == 302


def create_job(controller: Asked, name: str, xml: str) -> None:
    reply = ask(controller, "POST", f"createItem?name={name}", body=xml, headers={"Content-Type": "text/xml"})
    assert reply.status == 200, reply.text[:500]


def freestyle(controller: Asked, name: str, shell: str, label: str, *, concurrent: bool = True) -> None:
    create_job(
        controller,
        name,
        f"<project><properties/><assignedNode>{escape(label)}</assignedNode><canRoam>false</canRoam>"
        f"<concurrentBuild>{str(concurrent).lower()}</concurrentBuild><builders><hudson.tasks.Shell>"
        f"<command>{escape(shell)}</command></hudson.tasks.Shell></builders><publishers/><buildWrappers/></project>",
    )


def build(controller: Asked, name: str, delay: str = "?delay=0sec") -> int:
    reply = ask(controller, "POST", f"job/{name}/build{delay}")
    assert reply.status == 201, reply.text[:500]
    return int(reply.headers["Location"].rstrip("/").rsplit("/", 1)[1])


def get(controller: Asked, path: str) -> Any:
    reply = ask(controller, "GET", path)
    assert reply.status == 200, f"{path}: {reply.status}"
    return reply.json()


def online(controller: Asked, name: str) -> None:
    eventually(lambda: not get(controller, f"computer/{name}/api/json?tree=offline")["offline"], f"{name} online", 30)


def offline(controller: Asked, name: str) -> None:
    eventually(lambda: get(controller, f"computer/{name}/api/json?tree=offline")["offline"], f"{name} offline", 30)


def record(controller: Asked, url: str) -> Any:
    reply = ask(controller, "GET", f"{url}api/json")
    return reply.json() if reply.status == 200 else None


def result(controller: Asked, job: str, number: int | str = 1) -> str | None:
    """None: there is no such build, or it runs."""
    found = record(controller, f"job/{job}/{number}/")
    return found["result"] if found and not found["building"] else None


def nodes(controller: Asked) -> list[str]:
    """All but the built-in one."""
    found = get(controller, "computer/api/json?tree=computer[displayName]")["computer"]
    return [c["displayName"] for c in found if c["displayName"] != "Built-In Node"]


def ended(controller: Asked, url: str, within_s: float = 40.0) -> str:
    def done() -> str | None:
        found = record(controller, url)
        return found["result"] if found and not found["building"] else None

    return str(eventually(done, f"{url} ended", within_s))


def console(controller: Asked, url: str) -> str:
    return ask(controller, "GET", f"{url}consoleText").text


def says(controller: Asked, url: str, text: str, within_s: float = 30.0) -> None:
    eventually(lambda: text in console(controller, url), f"{text!r} in the console of {url}", within_s)


def why(controller: Asked, item: int) -> str | None:
    found: str | None = get(controller, f"queue/item/{item}/api/json?tree=why,stuck")["why"]
    return found
