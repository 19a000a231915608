"""Label expressions as Jenkins reads and prints them. Written apart from the product's parser, to judge it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

UNSAFE = "?*/\\%!@#$^&|<>[]:;"  # what Jenkins refuses in a name, and quotes in a label
_OPERATORS = ("<->", "->", "||", "&&")  # loosest first; the order is the precedence
_ENDS = set("&|!<>() \t\"'")


class BadExpression(ValueError):  # noqa: N818
    """A text that is no label expression."""


@dataclass(frozen=True, slots=True)
class Label:
    """One parsed expression.

    `name` is the text as Jenkins prints it; `atom` is set where the expression is one plain label.
    """

    name: str
    op: str
    parts: tuple[Label, ...] = ()
    atom: str | None = None

    @property
    def shown(self) -> str:
        """As `why` tells it: a lone label without quotes, whatever it is made of."""
        return self.name if self.atom is None else self.atom

    def matches(self, atoms: frozenset[str]) -> bool:
        match self.op:
            case "atom":
                return self.atom in atoms
            case "!":
                return not self.parts[0].matches(atoms)
            case "()":
                return self.parts[0].matches(atoms)
            case "&&":
                return self.parts[0].matches(atoms) and self.parts[1].matches(atoms)
            case "||":
                return self.parts[0].matches(atoms) or self.parts[1].matches(atoms)
            case "->":
                return not self.parts[0].matches(atoms) or self.parts[1].matches(atoms)
            case _:
                return self.parts[0].matches(atoms) == self.parts[1].matches(atoms)


def quoted(atom: str) -> str:
    if any(c in UNSAFE or c in " ()\t\n" for c in atom):
        escaped = atom.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return atom


def atom_label(atom: str) -> Label:
    return Label(quoted(atom), "atom", (), atom)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    i = 0
    while i < len(text):
        c = text[i]
        if c in " \t":
            i += 1
            continue
        op = next((o for o in _OPERATORS if text.startswith(o, i)), None)
        if op:
            found.append(("op", op))
            i += len(op)
        elif c in "!()":
            found.append(("op", c))
            i += 1
        elif c == "'":
            raise BadExpression(f"unexpected ' at {i} in {text!r}")
        elif c == '"':
            i, word = _quoted_word(text, i + 1)
            found.append(("atom", word))
        else:
            start = i
            while i < len(text) and text[i] not in _ENDS and not text.startswith("->", i):
                i += 1
            if i == start:
                raise BadExpression(f"unexpected {c!r} at {i} in {text!r}")
            found.append(("atom", text[start:i]))
    return found


def _quoted_word(text: str, i: int) -> tuple[int, str]:
    word = ""
    while i < len(text):
        if text[i] == "\\" and i + 1 < len(text):
            word += text[i + 1]
            i += 2
        elif text[i] == '"':
            return i + 1, word
        else:
            word += text[i]
            i += 1
    raise BadExpression(f"unclosed quote in {text!r}")


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def binary(self, level: int) -> Label:
        if level == len(_OPERATORS):
            return self.unary()
        op = _OPERATORS[level]
        left = self.binary(level + 1)
        while self.peek() == ("op", op):
            self.at += 1
            right = self.binary(level + 1)
            left = Label(f"{left.name}{op}{right.name}", op, (left, right))
            if op == "->" and self.peek() == ("op", op):
                raise BadExpression("-> does not chain")
        return left

    def unary(self) -> Label:
        kind, text = self.peek()
        self.at += 1
        if kind == "atom":
            return atom_label(text)
        if text == "!":
            if self.peek() == ("op", "!"):
                raise BadExpression("! stands before an atom or a parenthesis only")
            inner = self.unary()
            return Label(f"!{inner.name}", "!", (inner,))
        if text == "(":
            inner = self.binary(0)
            if self.peek() != ("op", ")"):
                raise BadExpression("a ) is missing")
            self.at += 1
            return Label(f"({inner.name})", "()", (inner,))
        raise BadExpression(f"unexpected {text!r}" if text else "unexpected end")


@lru_cache(maxsize=4096)
def parse(text: str) -> Label:
    """Raises BadExpression."""
    parser = _Parser(_tokens(text))
    label = parser.binary(0)
    if parser.peek()[0] != "end":
        raise BadExpression(f"unexpected {parser.peek()[1]!r} in {text!r}")
    return label
