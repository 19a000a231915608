"""A node's labels as text: changed word by word, with everything around them byte for byte as it was."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

#: One label of the label field; Jenkins splits at blanks, but not inside quotes.
_WORD = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"'])+|\S""")
_ESCAPED = re.compile(r"\\(.)")
_QUOTED = re.compile(r"""^(["'])(.*)\1$""", re.DOTALL)


class UnreadableNodeError(Exception):
    """A node's configuration in a form that is not Jenkins'."""


def split_labels(text: str) -> tuple[str, ...]:
    """The labels in a label field, in order."""
    return tuple(_bare(word) for word in _WORD.findall(text))


def changed_labels(text: str, *, add: Collection[str], remove: Collection[str]) -> str:
    """The label field with labels added at its end and others taken out; the rest stays as it is written.

    Args:
        text: the field.
        add: labels to add, plain words; those that are there already are left where they are.
        remove: labels to take out, wherever they stand.
    """
    kept: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        if _bare(match[0]) not in remove:
            kept.append(text[end : match.end()])
        end = match.end()
    changed = "".join(kept) + text[end:]
    if kept and not text[:1].isspace():
        changed = changed.lstrip()
    present = set(split_labels(changed))
    for label in add:
        if label not in present:
            changed = f"{changed.rstrip()} {label}".lstrip()
            present.add(label)
    return changed


def _bare(word: str) -> str:
    quoted = _QUOTED.match(word)
    return _ESCAPED.sub(r"\1", quoted[2]) if quoted else word


@dataclass(slots=True)
class _Place:
    """Where the label field of a configuration is, in bytes."""

    start: int = -1  # of its opening tag; where it would have to be, if there is none
    end: int = -1  # after its closing tag
    text: list[str] = field(default_factory=list)
    found: bool = False


def label_text(xml: bytes) -> str:
    """The label field of a node's `config.xml`.

    Raises:
        UnreadableNodeError: it is not the configuration of a node.
    """
    return "".join(_find(xml).text)


def with_label_text(xml: bytes, text: str) -> bytes:
    """The same `config.xml` with another label field.

    Raises:
        UnreadableNodeError: it is not the configuration of a node.
    """
    place = _find(xml)
    written = f"<label>{escape(text, {chr(34): '&quot;'})}</label>".encode()
    if not place.found:
        written = b"  " + written + b"\n"
    return xml[: place.start] + written + xml[place.end :]


def _find(xml: bytes) -> _Place:
    # Jenkins writes XML 1.1, of which this parser knows nothing; the length, and so each place, stays the same
    plain = xml.replace(b'version="1.1"', b'version="1.0"', 1).replace(b"version='1.1'", b"version='1.0'", 1)
    parser = expat.ParserCreate()
    place = _Place()
    depth = 0

    def opened(name: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth == 2 and name == "label" and not place.found:
            place.start, place.found = parser.CurrentByteIndex, True

    def closed(name: str) -> None:
        nonlocal depth
        if depth == 2 and name == "label" and place.end < 0:
            at = parser.CurrentByteIndex
            ends = plain.startswith(b"</label", at)  # else it is `<label/>`, for which the parser's place is vague
            place.end = plain.index(b">", at if ends else place.start) + 1
        elif depth == 1 and not place.found:
            place.start = place.end = parser.CurrentByteIndex
        depth -= 1

    def said(text: str) -> None:
        if depth == 2 and place.found and place.end < 0:
            place.text.append(text)

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = opened, closed, said
    try:
        parser.Parse(plain, True)  # noqa: FBT003  (the parser's own signature)
    except (expat.ExpatError, ValueError) as error:
        raise UnreadableNodeError(f"its config.xml cannot be read: {error}") from error
    return place
