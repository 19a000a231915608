"""`extends`: a template's keys with those of another one below them, worked out before anything is checked.

A key of the child goes before the parent's. Mappings are joined key by key (`resources`, `env`, `overrides`,
an image by backend), lists and single values are replaced. `image` and `build` stand for the same thing: a
child that gives one does not inherit the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provisioner.config.problems import KeyPath, Problem

_OWN = frozenset({"name", "extends"})
_INSTEAD = {"image": "build", "build": "image"}
#: Keys that a template must have, itself or by what it extends.
_NEEDED = ("labels", "providers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inherited:
    """The configuration's values with every template's keys in full."""

    value: Mapping[str, object]
    problems: tuple[Problem, ...]  # of the inheritance itself
    parents: Mapping[int, int]  # by place in the list of templates
    unresolved: frozenset[int]  # templates whose parent cannot be told

    def told_elsewhere(self, problem: Problem, lines: Mapping[KeyPath, int], every: Sequence[Problem]) -> bool:
        """Whether it stands at an inherited key, and is told at the template that has it written."""
        match problem.path:
            case ("templates", int() as index, str() as key, *rest) if problem.line is None:
                if index in self.unresolved and key in _NEEDED and problem.path not in lines:
                    return True
                while (parent := self.parents.get(index)) is not None and ("templates", index, key, *rest) not in lines:
                    index = parent
                    if any(p.path == ("templates", index, key, *rest) and p.text == problem.text for p in every):
                        return True
        return False


def inherit(value: Mapping[str, object]) -> Inherited:
    """Give every template the keys of what it extends; names that are not known are for a rule to tell."""
    items = value.get("templates")
    raws = {i: raw for i, raw in enumerate(items if isinstance(items, list) else ()) if isinstance(raw, dict)}
    by_name: dict[object, int] = {}
    for index, raw in raws.items():
        if isinstance(raw.get("name"), str):
            by_name.setdefault(raw["name"], index)
    wanted = {index: raw["extends"] for index, raw in raws.items() if isinstance(raw.get("extends"), str)}
    parents = {index: by_name[name] for index, name in wanted.items() if name in by_name}
    problems, circling = _circles(raws, parents)
    broken = circling | (wanted.keys() - parents.keys())
    unresolved = frozenset(index for index in raws if not broken.isdisjoint(_line_of(index, parents)))
    full: dict[int, dict[str, object]] = {}

    def resolved(index: int) -> dict[str, object]:
        if index not in full:
            parent = parents.get(index)
            own = raws[index]
            full[index] = own if parent is None else _joined(own, resolved(parent))
        return full[index]

    for index in raws:
        if index not in unresolved:
            for ancestor in reversed(_line_of(index, parents)):  # from the top, so that nothing recurses deeply
                resolved(ancestor)
    if not wanted or not isinstance(items, list):
        return Inherited(value=value, problems=(), parents={}, unresolved=frozenset())
    templates = [full.get(index, raw) for index, raw in enumerate(items)]
    return Inherited(value={**value, "templates": templates}, problems=problems, parents=parents, unresolved=unresolved)


def _line_of(index: int, parents: Mapping[int, int]) -> list[int]:
    """A template and all above it, once each."""
    line = [index]
    while (parent := parents.get(line[-1])) is not None and parent not in line:
        line.append(parent)
    return line


def _circles(
    raws: Mapping[int, Mapping[str, object]], parents: Mapping[int, int]
) -> tuple[tuple[Problem, ...], frozenset[int]]:
    problems = []
    circling = set()
    for index in parents:
        line = _line_of(index, parents)
        if parents.get(line[-1]) != index:
            continue
        circling.add(index)
        if len(line) > 1:  # that a template names itself is told by a rule
            names = ", ".join(str(raws[i]["name"]) for i in (*line, index))
            text = f"goes in a circle ({names}); let one of them extend none"
            problems.append(Problem(path=("templates", index, "extends"), text=text))
    return tuple(problems), frozenset(circling)


def _joined(own: Mapping[str, object], below: Mapping[str, object]) -> dict[str, object]:
    left_out = _OWN | {_INSTEAD[key] for key in _INSTEAD if own.get(key) is not None}
    joined = {key: value for key, value in below.items() if key not in left_out}
    for key, value in own.items():
        under = joined.get(key)
        joined[key] = _merged(value, under) if isinstance(value, dict) and isinstance(under, dict) else value
    return joined


def _merged(own: Mapping[str, object], below: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for key, value in own.items():
        under = merged.get(key)
        merged[key] = _merged(value, under) if isinstance(value, dict) and isinstance(under, dict) else value
    return merged
