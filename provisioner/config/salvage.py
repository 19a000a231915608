"""The well-formed rest of a broken configuration, so that one error does not hide the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from provisioner.config.controllers import Controller
from provisioner.config.gateway import Gateway
from provisioner.config.loans import Loans
from provisioner.config.problems import KeyPath
from provisioner.config.providers import Provider
from provisioner.config.rules import Parts
from provisioner.config.settings import Cleanup, Registry
from provisioner.config.templates import Template
from provisioner.config.wording import key_path

_Model = TypeVar("_Model", bound=BaseModel)
_LISTS = ("controllers", "providers", "templates")

#: What stands for a required key that is wrong. A provider's backend has none: all else depends on it.
_STAND_INS: Mapping[type[BaseModel], Mapping[str, object]] = {
    Controller: {"name": "x", "url": "http://x/", "user": "x", "token": {"env": "X"}},
    Registry: {"host": "x", "username": "x", "password": {"env": "X"}},
    Provider: {"name": "x", "max_agents": 1},
    Template: {"name": "x", "labels": ["x"], "providers": ["x"]},
    Cleanup: {"controller": "x", "job": "x"},
    Loans: {},
    Gateway: {},
}


def salvage(value: Mapping[str, object]) -> tuple[Parts, frozenset[KeyPath]]:
    """The parts that are left, and the keys that were dropped or stood in for: nothing may be said of those."""
    dropped: set[KeyPath] = set()

    def entries(model: type[_Model], section: str) -> dict[int, _Model]:
        items = value.get(section)
        found = {
            index: _salvaged(model, item, (section, index), dropped)
            for index, item in enumerate(items if isinstance(items, list) else ())
        }
        return {index: part for index, part in found.items() if part is not None}

    parts = Parts(
        controllers=entries(Controller, "controllers"),
        registries=entries(Registry, "registries"),
        providers=entries(Provider, "providers"),
        templates=entries(Template, "templates"),
        cleanup=_salvaged(Cleanup, value.get("cleanup"), ("cleanup",), dropped),
        loans=_salvaged(Loans, value.get("loans"), ("loans",), dropped),
        gateway=_salvaged(Gateway, value.get("gateway", {}), ("gateway",), dropped),
        has_cleanup=value.get("cleanup") is not None,
        names={section: _names(value.get(section)) for section in _LISTS},
    )
    return parts, frozenset(dropped)


def salvaged_template(spec: Mapping[str, object], *, name: str, provider: str) -> Template:
    """As much of a stored template as this release understands; what exists of its agent is looked after with it."""
    found = _salvaged(Template, dict(spec), (), set())
    return found or Template.from_spec({"name": name, "labels": [name], "providers": [provider]})


def _names(items: object) -> dict[int, str]:
    return {
        index: item["name"]
        for index, item in enumerate(items if isinstance(items, list) else ())
        if isinstance(item, dict) and isinstance(item.get("name"), str)
    }


def _salvaged(model: type[_Model], raw: object, at: KeyPath, dropped: set[KeyPath]) -> _Model | None:
    """The part without its wrong keys; None if too little is left."""
    stand_ins = _STAND_INS[model]
    rest = raw
    # each round drops at least one key, or the last one is reached: errors between keys show only after those in them
    for _ in range(4):
        try:
            return model.model_validate(rest)
        except ValidationError as error:
            if not isinstance(rest, dict):
                return None
            for details in error.errors(include_url=False, include_input=False):
                keys = _dropped_keys(key_path(details["loc"]), kind=details["type"])
                if not keys:
                    return None
                dropped.add(at + keys)
                rest = _without(rest, keys)
                if len(keys) == 1 and keys[0] in stand_ins:
                    rest[keys[0]] = stand_ins[keys[0]]
    return None


def _dropped_keys(path: KeyPath, kind: str) -> tuple[str, ...]:
    """The key to drop: the whole list around a wrong entry (places must not shift), the mapping around a gap."""
    keys: list[str] = []
    for part in path:
        if isinstance(part, int):
            break
        keys.append(part)
    else:
        if kind == "missing" and len(keys) > 1:
            keys.pop()
    return tuple(keys)


def _without(raw: dict[str, object], keys: tuple[str, ...]) -> dict[str, object]:
    head, *rest = keys
    inner = raw.get(head)
    copy = {key: value for key, value in raw.items() if key != head}
    if rest and isinstance(inner, dict):
        copy[head] = _without(inner, tuple(rest))
    return copy
