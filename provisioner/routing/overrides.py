"""What a build may ask for, by its parameters or its label, beside what the template says. Pure.

Everything that is asked for is text from whoever may start the build. It is read by the strictest form of its
kind, held against the template's allow-list and maximum, and put into the template's own keys; no text of a build
goes anywhere else. One thing that is not allowed refuses the whole: nobody gets less than was asked for unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from provisioner.config.sizes import parse_size
from provisioner.config.template_parts import NumberOverride, Override, SizeOverride
from provisioner.config.templates import Template
from provisioner.model.errors import ConfigError

_MOST_CHARACTERS = 500
_NUMBER = re.compile(r"[0-9]{1,7}(\.[0-9]{1,3})?", re.ASCII)
_PART = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
#: A name as registries take it: no `..`, no blank, nothing that reads as an option.
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,128})?",
    re.ASCII,
)
_SIZES = ("memory", "shm", "disk")
_WHOLE = ("pids",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    """What the agent is made from."""

    spec: Mapping[str, object]  # the template's keys as JSON takes them, with what the build asked for
    lines: tuple[str, ...] = ()  # what was asked for, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The build asks for something that the template does not allow."""

    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    key: str
    text: str
    by: str = field(compare=False)  # the parameter or label that asks
    override: Override = field(compare=False)


class _NotAllowed(Exception):  # noqa: N818  (it never leaves this module)
    pass


def override(template: Template, parameters: Mapping[str, str], bindings: Mapping[str, str]) -> Granted | Refused:
    """The template with what a build asked for.

    Args:
        template: the one that serves the build.
        parameters: of the build; those that no override names are passed over, empty ones ask for nothing.
        bindings: what the place holders of the template's labels stand for, as routing found.
    """
    spec = template.spec()
    lines = []
    try:
        for wish in _wishes(template, parameters, bindings):
            value = _granted(template.name, wish)
            if wish.key == "image":
                spec |= {"image": value, "build": None}
            else:
                resources = spec["resources"]
                spec["resources"] = {**(resources if isinstance(resources, dict) else {}), wish.key: value}
            lines.append(f"This build asks by {wish.by} for {wish.key} {wish.text}")
        if lines:
            Template.from_spec(spec)
    except _NotAllowed as refusal:
        return Refused(message=str(refusal))
    except ConfigError as error:
        return Refused(message=f"what the build asks for does not fit template {template.name}: {error.message}")
    return Granted(spec=spec, lines=tuple(lines))


def _wishes(template: Template, parameters: Mapping[str, str], bindings: Mapping[str, str]) -> Iterator[_Wish]:
    for key, rule in template.overrides:
        if rule is None:
            continue
        asked = [
            _Wish(key=key, text=text.strip(), by=by, override=rule)
            for by, text in (
                (f"parameter {rule.parameter}", parameters.get(rule.parameter or "", "")),
                ("its label", bindings.get(key, "")),
            )
            if text.strip()
        ]
        if len(set(asked)) > 1:
            raise _NotAllowed(
                f"{asked[0].by} asks for {key} {_shown(asked[0].text)} and {asked[1].by} for {_shown(asked[1].text)}"
            )
        yield from asked[:1]


def _granted(template: str, wish: _Wish) -> object:
    """The value as the template's key takes it."""
    what = f"{wish.by} asks for {wish.key} {_shown(wish.text)}"
    value = _read(wish, what)
    allow, most = wish.override.allow, _most(wish.override)
    if allow and not any(_fits(wish, value, allowed) for allowed in allow):
        raise _NotAllowed(f"{what}, which template {template} does not allow; allowed: {_list(allow)}")
    if most is not None and isinstance(value, int | float) and value > most:
        shown = f"{most:g}" if isinstance(wish.override, NumberOverride) else _size(int(most))
        raise _NotAllowed(f"{what}, more than the {shown} that template {template} allows")
    return value


def _read(wish: _Wish, what: str) -> object:
    if len(wish.text) > _MOST_CHARACTERS:
        raise _NotAllowed(f"{what}, which is too long")
    if wish.key == "image":
        if not _IMAGE.fullmatch(wish.text):
            raise _NotAllowed(f"{what}, which is no name of an image")
        return wish.text
    if wish.key in _SIZES:
        try:
            size = parse_size(wish.text)
        except ValueError as error:
            raise _NotAllowed(f"{what}, which {error}") from None
        if size < 1:
            raise _NotAllowed(f"{what}, which is nothing")
        return size
    if not _NUMBER.fullmatch(wish.text) or (number := float(wish.text)) <= 0:
        raise _NotAllowed(f"{what}, which is no number above 0")
    if wish.key in _WHOLE:
        if not number.is_integer():
            raise _NotAllowed(f"{what}, which is no whole number")
        return int(number)
    return number


def _most(rule: Override) -> float | None:
    if isinstance(rule, SizeOverride):
        return rule.max_bytes
    return rule.max if isinstance(rule, NumberOverride) else None


def _fits(wish: _Wish, value: object, allowed: str) -> bool:
    if wish.key == "image":
        return _glob(allowed).fullmatch(wish.text) is not None
    same: Callable[[str], object] = parse_size if wish.key in _SIZES else float
    try:
        return allowed == "*" or same(allowed) == value
    except ValueError:
        return False


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` is any text but `/`; as the whole pattern or after the last `/` it is any text at all.

    So `maven:*` is every tag of maven, and not `maven:5000/other`, an image of a registry that is called maven.
    """
    head, star = (pattern[:-1], ".*") if pattern == "*" or pattern.endswith("/*") else (pattern, "")
    return re.compile("[^/]*".join(re.escape(part) for part in head.split("*")) + star)


def _shown(text: str) -> str:
    """One line without control characters, bounded."""
    flat = "".join(c if c.isprintable() else "?" for c in text)
    return f"'{flat if len(flat) <= 80 else flat[:77] + '...'}'"


def _list(texts: Sequence[str]) -> str:
    return ", ".join(texts[:10]) + (f" and {len(texts) - 10} more" if len(texts) > 10 else "")


def _size(size: int) -> str:
    for unit, factor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}"
