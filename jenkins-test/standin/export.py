"""The remote API's way to cut objects: `tree=a,b[c]{0,5}` or `depth=N`, over lazily read properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Getter = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of object is shown.

    `shown` is also read below the asked depth (Stapler's higher visibility); the other `props` are not.
    A class name of None is left out, as Jenkins does where the type is clear from the place.
    What is `hidden` is shown to a `tree` that names it, and nowhere else (visibility below zero).
    """

    cls: str | Callable[[Any], str] | None
    props: Mapping[str, Getter]
    shown: frozenset[str] = frozenset()
    hidden: Mapping[str, Getter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """An object together with the way it is shown."""

    kind: Kind
    of: Any


@dataclass(frozen=True, slots=True)
class Inline:
    """A list whose members count as being on the level of their owner."""

    members: list[View]


@dataclass(slots=True)
class Tree:
    """A parsed `tree=`."""

    children: dict[str, Tree] = field(default_factory=dict)
    first: int = 0
    last: int | None = None


class BadTree(ValueError):  # noqa: N818
    """A `tree=` that does not parse."""


def parse_tree(text: str) -> Tree:
    tree, at = _level(text, 0)
    if at != len(text):
        raise BadTree(f"unexpected {text[at]!r} at {at}")
    return tree


def _level(text: str, at: int) -> tuple[Tree, int]:
    tree = Tree()
    while True:
        start = at
        while at < len(text) and text[at] not in ",[]{}":
            at += 1
        name = text[start:at].strip()
        if not name:
            raise BadTree(f"a name is missing at {start}")
        child = Tree()
        if at < len(text) and text[at] == "[":
            child, at = _level(text, at + 1)
            if at >= len(text) or text[at] != "]":
                raise BadTree("a ] is missing")
            at += 1
        if at < len(text) and text[at] == "{":
            end = text.find("}", at)
            if end < 0:
                raise BadTree("a } is missing")
            child.first, child.last = _range(text[at + 1 : end])
            at = end + 1
        tree.children[name] = child
        if at < len(text) and text[at] == ",":
            at += 1
            continue
        return tree, at


def _range(text: str) -> tuple[int, int | None]:
    low, comma, high = text.partition(",")
    try:
        if not comma:
            return int(low), int(low) + 1
        return int(low) if low.strip() else 0, int(high) if high.strip() else None
    except ValueError as error:
        raise BadTree(f"{text!r} is no range") from error


def render(value: Any, tree: Tree | None, depth: int) -> Any:
    """Cut a view down. `tree` wins over `depth`, as in Jenkins."""
    return _by_tree(value, tree) if tree is not None else _by_level(value, 1 - depth)


def _named(view: View) -> dict[str, Any]:
    cls = view.kind.cls
    if callable(cls):
        return {"_class": cls(view.of)}
    return {"_class": cls} if cls else {}


def _by_tree(value: Any, tree: Tree) -> Any:
    if isinstance(value, View):
        out = _named(value)
        children = tree.children
        star = children.get("*")
        if star is None and len(children) < len(value.kind.props):
            # the wanted few, in the order in which the object has them
            for name, getter in value.kind.props.items():
                if name in children:
                    out[name] = _by_tree(getter(value.of), children[name])
            return out | _hidden(value, tree)
        for name, getter in value.kind.props.items():
            child = children.get(name, star)
            if child is not None:
                out[name] = _by_tree(getter(value.of), child)
        return out | _hidden(value, tree)
    if isinstance(value, Inline):
        value = value.members
    if isinstance(value, list):
        return [_by_tree(v, tree) for v in value[tree.first : tree.last]]
    return value


def _hidden(view: View, tree: Tree) -> dict[str, Any]:
    return {
        name: _by_tree(getter(view.of), tree.children[name])
        for name, getter in view.kind.hidden.items()
        if name in tree.children
    }


def _by_level(value: Any, level: int) -> Any:
    if isinstance(value, View):
        out = _named(value)
        for name, getter in value.kind.props.items():
            if level <= 1 or (level <= 3 and name in value.kind.shown):
                out[name] = _by_level(getter(value.of), level + 1)
        return out
    if isinstance(value, Inline):
        return [_by_level(v, level - 1) for v in value.members]
    if isinstance(value, list):
        return [_by_level(v, level) for v in value]
    return value
