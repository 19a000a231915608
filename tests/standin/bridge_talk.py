"""A reader of the bridge, in a few lines."""

from __future__ import annotations

import json
from typing import Any

from tests.standin_process import StandinProcess, ask, eventually

OWNER = "t-1"


def call(standin: StandinProcess, name: str, body: dict[str, Any] | None = None, query: str = "") -> Any:
    if body is None:
        reply = ask(standin, "GET", f"provisioner-bridge/{name}{query}")
    else:
        reply = ask(standin, "POST", f"provisioner-bridge/{name}", body=json.dumps(body))
    assert reply.status == 200, f"{name}: {reply.status} {reply.text}"
    return reply.json()


class Talk:
    """Says hello, applies ops, keeps the events."""

    def __init__(self, standin: StandinProcess, owner: str = OWNER, parameters: tuple[str, ...] = ()) -> None:
        self.standin = standin
        self.owner = owner
        self.parameters = list(parameters)
        self.events: list[dict[str, Any]] = []
        self.snapshot = self.hello()

    def hello(self) -> dict[str, Any]:
        body = {"protocol": 1, "owner": self.owner, "parameters": self.parameters}
        self.snapshot = call(self.standin, "hello", body)
        self.epoch, self.seq = self.snapshot["epoch"], self.snapshot["seq"]
        return self.snapshot

    def read(self, wait: int = 0) -> dict[str, Any]:
        query = f"?owner={self.owner}&epoch={self.epoch}&since={self.seq}&wait={wait}"
        answer: dict[str, Any] = call(self.standin, "events", None, query)
        if "events" in answer:
            self.events += answer["events"]
            self.seq = answer["seq"]
        return answer

    def apply(self, *ops: dict[str, Any]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = call(
            self.standin, "apply", {"protocol": 1, "owner": self.owner, "ops": list(ops)}
        )["results"]
        return results

    def one(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The first event of a kind with these fields, waited for."""

        def look() -> dict[str, Any] | None:
            self.read()
            for event in self.events:
                if event["type"] == kind and all(event.get(k) == v for k, v in fields.items()):
                    return event
            return None

        found: dict[str, Any] = eventually(look, f"event {kind} {fields}")
        return found

    def register(self, name: str, labels: list[str], item: dict[str, Any] | None, folder: str, **more: Any) -> Any:
        op = {
            "op": "register",
            "name": name,
            "labels": labels,
            "remote_fs": folder,
            "launcher": "websocket",
            "request": None if item is None else request_of(item),
            "lines": [],
            **more,
        }
        return self.apply(op)[0]


def request_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["id"], "since_ms": item["since_ms"], "task": item["task"]}
