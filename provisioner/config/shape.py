"""The JSON Schema of the file, and what it knows of one key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from provisioner.config.problems import KeyPath
from provisioner.config.settings import Settings


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the configuration; a new one at each call."""
    schema = Settings.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Configuration of the provisioner",
    }


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


def description_at(path: KeyPath) -> str:
    """What the key is for, in a few words; for an entry of a list that of the list; empty if it is no key of ours."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return next((str(node["description"]) for node in _nodes_at(path) if "description" in node), "")


def keys_at(path: KeyPath) -> tuple[str, ...]:
    """The keys that the mapping at this path may have; empty if any or none."""
    found: dict[str, None] = {}
    for node in _nodes_at(path):
        for inner in _alternatives(node):
            found |= dict.fromkeys(inner.get("properties", {}))
    return tuple(found)


def _nodes_at(path: KeyPath) -> list[Mapping[str, Any]]:
    nodes: list[Mapping[str, Any]] = [_schema()]
    for part in path:
        nodes = [
            inner
            for node in nodes
            for alternative in _alternatives(node)
            if (inner := _step(alternative, part)) is not None
        ]
    return nodes


def _step(node: Mapping[str, Any], part: str | int) -> Mapping[str, Any] | None:
    inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
    return inner if isinstance(inner, Mapping) else None


def _alternatives(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The node itself, and what it refers to or offers as a choice."""
    yield node
    for inner in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from _alternatives(inner)
    reference = node.get("$ref")
    if isinstance(reference, str):
        yield from _alternatives(_schema()["$defs"][reference.removeprefix("#/$defs/")])
