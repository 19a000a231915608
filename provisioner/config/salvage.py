"""The well-formed rest of a broken configuration, so that one error does not hide the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from provisioner.config.controllers import Controller
from provisioner.config.gateway import Gateway
from provisioner.config.loans import LoanMachine, Loans
from provisioner.config.problems import KeyPath
from provisioner.config.providers import Provider
from provisioner.config.rules import Parts
from provisioner.config.settings import Cleanup, Registry
from provisioner.config.templates import Template
from provisioner.config.wording import key_path

_Model = TypeVar("_Model", bound=BaseModel)
_LISTS = ("controllers", "providers", "templates")

#: What stands for a required key that is wrong. A provider's backend has none: all else depends on it. With a #, the
#: place in the list, where two that are wrong must not look the same.
_STAND_INS: Mapping[type[BaseModel], Mapping[str, object]] = {
    Controller: {"name": "x", "url": "http://x/", "user": "x", "token": {"env": "X"}},
    Registry: {"host": "x", "username": "x", "password": {"env": "X"}},
    Provider: {"name": "x", "max_agents": 1},
    Template: {"name": "x", "labels": ["x"], "providers": ["x"]},
    Cleanup: {"controller": "x", "job": "x"},
    Loans: {},
    LoanMachine: {
        "controller": "x-#",
        "node": "#",
        "ssh": "x@x",
        "key": "x",
        "host_key": "ssh-ed25519 AAAA",
    },
    Gateway: {},
}
#: Lists of words in which a wrong entry alone is stood in for: the others are looked at as they are.
_WORDS = frozenset({"labels", "providers", "controllers"})


def salvage(value: Mapping[str, object]) -> tuple[Parts, frozenset[KeyPath]]:
    """The parts that are left, and the keys that were dropped or stood in for: nothing may be said of those."""
    dropped: set[KeyPath] = set()

    def entries(model: type[_Model], *section: str) -> dict[int, _Model]:
        items: object = value
        for key in section:
            items = items.get(key) if isinstance(items, dict) else None
        found = {
            index: _salvaged(model, item, (*section, index), dropped)
            for index, item in enumerate(items if isinstance(items, list) else ())
        }
        return {index: part for index, part in found.items() if part is not None}

    loans = value.get("loans")
    if isinstance(loans, dict):  # its machines are parts of their own
        loans = _without(loans, ("machines",))
    parts = Parts(
        controllers=entries(Controller, "controllers"),
        registries=entries(Registry, "registries"),
        providers=entries(Provider, "providers"),
        templates=entries(Template, "templates"),
        cleanup=_salvaged(Cleanup, value.get("cleanup"), ("cleanup",), dropped),
        loans=_salvaged(Loans, loans, ("loans",), dropped),
        machines=entries(LoanMachine, "loans", "machines"),
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
                match details["loc"]:
                    case (str() as key, int() as index) if model is Template and key in _WORDS:
                        dropped.add((*at, key, index))
                        rest = {**rest, key: _other_word(rest.get(key), index)}
                        continue
                keys = _dropped_keys(key_path(details["loc"]), kind=details["type"])
                if not keys:
                    return None
                dropped.add(at + keys)
                rest = _without(rest, keys)
                if len(keys) == 1 and keys[0] in stand_ins:
                    right = stand_ins[keys[0]]
                    rest[keys[0]] = right.replace("#", str(at[-1])) if isinstance(right, str) else right
    return None


def _other_word(words: object, index: int) -> list[object]:
    """The list with a word in one place that no other list or part has."""
    others = list(words) if isinstance(words, list) else []
    others[index : index + 1] = [f"stands-in-for-what-is-wrong-{index}"]
    return others


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
