"""Pydantic's errors in words: what is wrong; what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from provisioner.config.problems import KeyPath, Problem
from provisioner.config.shape import description_at, keys_at
from provisioner.config.templates import UNION_TAGS

_NOT_KEYS = UNION_TAGS | {"[key]"}

_WRONG = {
    "missing": "is missing",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number that is not endless",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping",
}
_BOUND = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def problems_of(error: ValidationError, base: KeyPath = ()) -> list[Problem]:
    """Every problem that pydantic found, below a path."""
    every = error.errors(include_url=False)
    # pydantic counts the well-formed entries of a list: one wrong entry alone makes the list "too short" as well
    within = {key_path(details["loc"])[:depth] for details in every for depth in range(len(details["loc"]))}
    return [
        problem_of(details, base)
        for details in every
        if details["type"] != "too_short" or key_path(details["loc"]) not in within
    ]


def key_path(loc: Iterable[str | int]) -> KeyPath:
    """Where in the file, without what pydantic puts between the keys."""
    return tuple(part for part in loc if part not in _NOT_KEYS)


def problem_of(details: ErrorDetails, base: KeyPath = ()) -> Problem:
    """One of pydantic's problems in words. The refused value is shown only where it is one of a closed set."""
    loc, kind = details["loc"], details["type"]
    if kind == "extra_forbidden":
        path = (*base, *key_path(loc[:-1]), loc[-1])  # the key itself may look like what pydantic puts between
        return Problem(path=path, text=_unknown(path))
    path = base + key_path(loc)
    if details["input"] is None and kind not in {"missing", "value_error"}:
        return Problem(path=path, text=f"has no value; {_right(path, 'write one or leave the key out')}")
    if kind == "value_error":
        return Problem(path=path, text=str(details["ctx"]["error"]))
    return Problem(path=path, text=_wrong(details, path))


def _wrong(details: ErrorDetails, path: KeyPath) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in {"enum", "literal_error"}:
        choices = str(context["expected"]).replace("'", "")
        given = details["input"]
        if isinstance(given, str) and len(given) <= 60 and given.isprintable():
            close = difflib.get_close_matches(given, choices.replace(" or ", ", ").split(", "), n=1)
            return f'"{given}" is not known here; write {close[0] if close else choices}'
        return f"is not known here; write {choices}"
    if kind in _BOUND:
        key, words = _BOUND[kind]
        bound = context[key]
        bound = int(bound) if isinstance(bound, float) and bound.is_integer() else bound
        return f"{words} {bound}; {_right(path, 'write another number')}"
    if kind == "too_short":
        return f"must not be empty; {_right(path, 'write at least one')}"
    if kind == "bool_type":
        return "must be true or false; write one of the two, without quotes"
    if kind == "string_type":
        number = isinstance(details["input"], int | float)
        return f"must be text; {'put it in quotes' if number else _right(path, 'write a word')}"
    wrong = _WRONG.get(kind) or details["msg"][0].lower() + details["msg"][1:]
    return f"{wrong}; {_right(path, 'write one')}"


def _right(path: KeyPath, otherwise: str) -> str:
    description = description_at(path)
    return f"expected: {description}" if description else otherwise


def _unknown(path: KeyPath) -> str:
    key, around = str(path[-1]), path[:-1]
    known = keys_at(around)
    inside = [f"{other}.{key}" for other in known if key in keys_at((*around, other))]
    close = inside or difflib.get_close_matches(key, known, n=1)
    if close:
        return f"is not a key here; did you mean {close[0]}?"
    return f"is not a key here; known are {', '.join(known)}"
