"""A YAML file as plain values, with the line of every key.

The reading follows YAML 1.2's core: `on`, `off`, `yes` and `no` are text (`bridge: off`), and
`1000:50` is not a number of base sixty (`run_as`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from provisioner.config.problems import KeyPath, Problem

#: Aliases can make a few lines stand for billions of values.
MOST_VALUES = 200_000
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What the file says. `problems` are those of the YAML itself."""

    value: object = None
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def line(self, path: KeyPath) -> int:
        """The line of a key, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own form)


for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_form})$"), _first)


class _Unreadable(Exception):  # noqa: N818  (it never leaves this module)
    def __init__(self, text: str, mark: yaml.Mark | None = None, line: int = 1) -> None:
        super().__init__(text)
        self.problem = Problem(path=(), text=text, line=mark.line + 1 if mark else line)


@dataclass(slots=True)
class _Reading:
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    open: set[int] = field(default_factory=set)  # nodes that are being read, to notice an alias of its own holder
    values: int = 0

    def read(self, node: yaml.Node, path: KeyPath) -> object:
        self.values += 1
        if self.values > MOST_VALUES:
            raise _Unreadable(f"holds more than {MOST_VALUES} values; use fewer aliases", node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in {_TAG + "map", _TAG + "seq"}:
            self._tag_problem(node, path)
        if id(node) in self.open:
            raise _Unreadable("an alias stands inside what it names; write the values out", node.start_mark)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            items: list[object] = []
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self.read(item, (*path, index)))
            return items
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        values: dict[str, object] = {}
        merged: list[yaml.Node] = []
        for key, inner in node.value:
            line = key.start_mark.line + 1
            if key.tag == _TAG + "merge":
                merged.append(inner)
            elif not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(path=path, text="a key must be one word; write `key: value`", line=line))
            elif key.value in values:
                first = self.lines[(*path, key.value)]
                text = f"stands twice, first in line {first}; leave one out"
                self.problems.append(Problem(path=(*path, key.value), text=text, line=line))
            else:
                self.lines[(*path, key.value)] = line
                values[key.value] = self.read(inner, (*path, key.value))
        for inner in merged:
            for key, value in self._merged(inner, path):
                values.setdefault(key, value)
        return values

    def _merged(self, node: yaml.Node, path: KeyPath) -> Iterator[tuple[str, object]]:
        """What `<<` brings in; keys written out go before it, and earlier mappings before later ones."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise _Unreadable("<< takes a mapping or a list of mappings; write `<<: *name`", node.start_mark)
            held = dict(self.lines)
            value = self.read(part, path)
            self.lines |= held  # the line of a key that is written out as well is that one
            if isinstance(value, dict):
                yield from value.items()

    def _tag_problem(self, node: yaml.Node, path: KeyPath) -> None:
        text = "has a YAML tag, which is not known here; leave out the word with !"
        self.problems.append(Problem(path=path, text=text, line=node.start_mark.line + 1))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
                case "float":
                    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                    if not math.isfinite(number):
                        raise ValueError(text)
                    return number
                case "str" | "merge":
                    return text
        except ValueError:
            line = node.start_mark.line + 1
            self.problems.append(Problem(path=path, text="is not a usable number; write fewer digits", line=line))
            return None
        self._tag_problem(node, path)
        return text


def parse(data: bytes) -> Document:
    """The values of a YAML text; never raises, whatever the bytes."""
    reading = _Reading()
    try:
        node = _compose(data)
        if node is None or node.tag == _TAG + "null":
            raise _Unreadable("the file is empty; write at least id, controllers, providers and templates")
        value = reading.read(node, ())
        if not isinstance(value, dict):
            raise _Unreadable("the file must be a mapping; write `key: value` lines, first `id: …`", node.start_mark)
    except _Unreadable as error:
        return Document(problems=(error.problem,))
    except RecursionError:
        return Document(problems=(Problem(path=(), text="is nested too deeply; write it flatter", line=1),))
    return Document(value=value, lines=reading.lines, problems=tuple(reading.problems))


def _compose(data: bytes) -> yaml.Node | None:
    # The texts of these errors hold no part of the file but single characters and names of anchors;
    # their `str` would show whole lines, and so secrets.
    try:
        return yaml.compose(data, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        words = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        raise _Unreadable(f"is not YAML: {words}; mend the line or the one before it", mark) from None
    except yaml.reader.ReaderError as error:
        line = data[: error.position].count(b"\n") + 1
        raise _Unreadable(f"is not YAML: {error.reason}; save the file as UTF-8 text", line=line) from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, AttributeError, TypeError):
        # PyYAML lets some of these out of its scanner, for `"\UFFFFFFFF"` for one
        raise _Unreadable("is not YAML; save the file as UTF-8 text and mend its escapes") from None
