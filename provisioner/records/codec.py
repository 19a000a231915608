"""Records to JSON and back; only here is the stored form known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from provisioner.model.agent import Agent, AgentState, Target
from provisioner.model.errors import Reason
from provisioner.model.queue import ItemKind, QueueItem, RequestKey
from provisioner.model.request import Request, RequestState


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot store a {type(value).__name__}")


_AGENT = tuple(each for each in fields(Agent) if each.name != "spec")


def _dump(record: Request | Mapping[str, object]) -> str:
    # not `asdict`: it copies the whole template at every step of every agent
    return json.dumps(record, default=_plain, separators=(",", ":"))


def _key(data: dict[str, Any] | None) -> RequestKey | None:
    return RequestKey(**data) if data else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def dump_agent(agent: Agent, spec: str) -> str:
    """The stored form of an agent; `spec` is that of what it was made from."""
    plain = {each.name: getattr(agent, each.name) for each in _AGENT}
    return f'{_dump(plain)[:-1]},"spec":{spec}}}'


def dump_spec(spec: Mapping[str, object]) -> str:
    """The stored form of what an agent is made from."""
    return _dump(spec)


def load_agent(text: str) -> Agent:
    """An agent from its stored form. Raises ValueError, KeyError, TypeError or AttributeError on a damaged one."""
    data = json.loads(text)
    data["request"] = _key(data["request"])
    data["kind"] = ItemKind(data["kind"]) if data["kind"] else None
    data["labels"] = tuple(data["labels"])
    data["state"] = AgentState(data["state"])
    data["target"] = Target(data["target"])
    data["created_at"] = datetime.fromisoformat(data["created_at"])
    data["marks"] = {k: datetime.fromisoformat(v) for k, v in data["marks"].items()}
    data["reason"] = Reason(data["reason"]) if data["reason"] else None
    data["held_until"] = _time(data.get("held_until"))  # absent in records of earlier releases
    return Agent(**data)


def dump_request(request: Request) -> str:
    """The stored form of a request."""
    return _dump(request)


def load_request(text: str) -> Request:
    """A request from its stored form. Raises ValueError, KeyError, TypeError or AttributeError on a damaged one."""
    data = json.loads(text)
    item = data["item"]
    item["key"] = RequestKey(**item["key"])
    item["kind"] = ItemKind(item["kind"])
    data["item"] = QueueItem(**item)
    data["state"] = RequestState(data["state"])
    data["first_seen"] = datetime.fromisoformat(data["first_seen"])
    data["reason"] = Reason(data["reason"]) if data["reason"] else None
    data["tail"] = tuple(data["tail"])
    data["not_before"] = _time(data["not_before"])
    data["failed_at"] = tuple(data.get("failed_at", ()))  # absent in records of earlier releases
    return Request(**data)
