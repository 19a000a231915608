"""Small configurations for the tests."""

import copy
from typing import Any

import yaml

from provisioner.config import Examined, examine_bytes

BASE: dict[str, Any] = {
    "id": "test",
    "controllers": [{"name": "main", "url": "http://127.0.0.1:8080/", "user": "u", "token": {"env": "TOKEN"}}],
    "providers": [
        {"name": "box", "backend": "docker", "max_agents": 2},
        {"name": "here", "backend": "process", "max_agents": 1},
    ],
    "templates": [{"name": "maven", "labels": ["maven"], "providers": ["box"], "image": "maven:3"}],
}

REMOVED = object()


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """BASE with other values at dotted paths such as `templates.0.image`."""
    value = copy.deepcopy(BASE)
    for path, new in changes:
        *head, last = path.split(".")
        inner: Any = value
        for key in head:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        if new is REMOVED:
            del inner[last]
        elif isinstance(inner, list) and int(last) == len(inner):
            inner.append(new)
        elif isinstance(inner, list):
            inner[int(last)] = new
        else:
            inner[last] = new
    return value


def examined(*changes: tuple[str, Any]) -> Examined:
    """What is found in BASE with these changes."""
    return examine_bytes(yaml.safe_dump(changed(*changes), sort_keys=False).encode(), "p.yaml")


def told(*changes: tuple[str, Any]) -> list[str]:
    """The findings as `path: text`."""
    return [f"{finding.path}: {finding.text}" for finding in examined(*changes).findings]


def told_of(text: str) -> list[str]:
    """The whole lines for a YAML text."""
    return [str(finding) for finding in examine_bytes(text.encode(), "p.yaml").findings]
