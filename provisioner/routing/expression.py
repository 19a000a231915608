r"""Jenkins label expressions: the same texts are valid, and the same sets of labels match, as on a controller.

Tightest first: `!`, `&&`, `||`, `->`, `<->`. The corners, each held against a real controller by
`tests/jenkins/test_label_expressions.py`:

- `!` stands before an atom or a parenthesis only: `!!a` is an error, `!(!a)` is not;
- `->` does not chain: `a->b->c` is an error;
- only space and tab separate; every other blank, a line end too, is part of an atom;
- a `-` belongs to the atom unless `>` follows it: `a->b` implies, `a-b` is one atom;
- `"…"` is one atom, with the escapes `\b \t \n \f \r \" \' \\`; a `'` is an error outside of it.

Neither parsing nor evaluation recurses, so that no nesting is too deep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from provisioner.model.errors import ProvisionerError, Reason

#: Longer texts are refused. Jenkins knows no bound; nobody writes such a label by hand.
MAX_CHARACTERS = 10_000


class LabelSyntaxError(ProvisionerError):
    """A text that Jenkins would not parse as a label expression.

    Args:
        text: the whole text.
        position: index of the offending character, counted from 0; the text's length if something is missing.
        problem: what is wrong there.
    """

    def __init__(self, text: str, position: int, problem: str) -> None:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        super().__init__(
            f"label expression {shown!r}: {problem} at character {position + 1}", reason=Reason.TEMPLATE_INVALID
        )
        self.text = text
        self.position = position
        self.problem = problem


class Operator(StrEnum):
    """The operators of the language."""

    NOT = "!"
    AND = "&&"
    OR = "||"
    IMPLIES = "->"
    IFF = "<->"


#: How tightly the binary operators bind, tightest highest.
_BINDS: Mapping[Operator, int] = {Operator.IFF: 1, Operator.IMPLIES: 2, Operator.OR: 3, Operator.AND: 4}

_MEANS: Mapping[Operator, Callable[[bool, bool], bool]] = {
    Operator.AND: lambda a, b: a and b,
    Operator.OR: lambda a, b: a or b,
    Operator.IMPLIES: lambda a, b: b or not a,
    Operator.IFF: lambda a, b: a == b,
}

_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t]+)
    | (?P<sign>&&|\|\||!|->|<->|\(|\))
    | (?P<atom>(?:[^&|!<>()\ \t"'\-]|-(?!>))+)
    | (?P<quoted>"(?:\\[btnfr"'\\]|[^\\"\r\n])*")
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}
_QUOTED = {**{character: f"\\{letter}" for letter, character in _ESCAPED.items()}, '"': '\\"', "\\": "\\\\"}

#: Jenkins quotes a label with any of these when it prints it; the quotes are ours, Jenkins forgets them.
_UNSAFE = frozenset("?*/\\%!@#$^&|<>[]:; ()\"'")
_SPACE_AND_BELOW = "".join(map(chr, range(0x21)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Atom:
    """One label."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """A parsed label expression. Equal ones are written the same way but for blanks and needless quotes."""

    text: str  # as Jenkins prints it
    program: tuple[Atom | Operator, ...] = field(repr=False)  # operands first, then their operator
    ordered_atoms: tuple[str, ...] = field(repr=False)  # by first appearance, each once
    conjunction: bool = field(repr=False)  # it asks for all of its labels at once and nothing else: `(a&&b)&&c`

    def __str__(self) -> str:
        return self.text

    def atoms(self) -> frozenset[str]:
        """Every label that the expression names, denied ones too."""
        return frozenset(self.ordered_atoms)

    def matches(self, atoms: AbstractSet[str]) -> bool:
        """Whether a node that carries exactly these labels satisfies the expression."""
        stack: list[bool] = []
        for step in self.program:
            if isinstance(step, Atom):
                stack.append(step.name in atoms)
            elif step is Operator.NOT:
                stack.append(not stack.pop())
            else:
                right = stack.pop()
                stack.append(_MEANS[step](stack.pop(), right))
        return stack.pop()


def quote(atom: str) -> str:
    """The label as it must be written in an expression: as it is, or in double quotes where Jenkins needs them."""
    trimmed = atom.strip(_SPACE_AND_BELOW)
    safe = (
        atom != ""
        and not trimmed.endswith(".")
        and not any(c in _UNSAFE or c < " " or "\x7f" <= c <= "\x9f" for c in atom)
    )
    if safe:
        return atom
    return '"' + "".join(_QUOTED.get(character, character) for character in atom) + '"'


def single(name: str) -> Expression:
    """The expression that asks for exactly one label, whatever characters it has."""
    return Expression(text=quote(name), program=(Atom(name=name),), ordered_atoms=(name,), conjunction=True)


@lru_cache(maxsize=2048)
def parse(text: str) -> Expression:
    """Parse a label expression as `Label.parseExpression` does.

    Raises:
        LabelSyntaxError: Jenkins would refuse it too, or it is longer than `MAX_CHARACTERS`.
    """
    if len(text) > MAX_CHARACTERS:
        raise LabelSyntaxError(text, MAX_CHARACTERS, f"longer than {MAX_CHARACTERS} characters")
    return _Parser(text).run()


def read(text: str) -> tuple[Expression, LabelSyntaxError | None]:
    """What a queue item asks for whose label prints as `text`, and what is wrong with the text, if anything.

    Like Jenkins, which takes a job's label that it cannot parse as one label of that very name
    (`two words`), and prints it so when it holds a quote character.
    """
    try:
        return parse(text), None
    except LabelSyntaxError as error:
        return single(text), error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    what: Atom | str  # a label, or the sign itself
    position: int


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise LabelSyntaxError(text, position, _unreadable(text[position]))
        if found.lastgroup == "sign":
            yield _Token(what=found.group(), position=position)
        elif found.lastgroup == "atom":
            yield _Token(what=Atom(name=found.group()), position=position)
        elif found.lastgroup == "quoted":
            inner = found.group()[1:-1]
            name = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), inner)
            yield _Token(what=Atom(name=name), position=position)
        position = found.end()


def _unreadable(character: str) -> str:
    if character == '"':
        return "a quoted label that does not end, or has an unknown escape,"
    if character in "&|":
        return f"a single {character!r} (write {character * 2})"
    return f"unexpected {character!r}"


class _Parser:
    """Turns the text round into operands first; waiting operators stand on a stack of our own."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._program: list[Atom | Operator] = []
        self._waiting: list[tuple[Operator | None, int]] = []  # None: an open parenthesis
        self._printed: list[str] = []
        self._names: dict[str, None] = {}

    def run(self) -> Expression:
        operand_next = True
        for token in _tokens(self._text):
            operand_next = self._operand(token) if operand_next else self._operator(token)
        if operand_next:
            raise self._error(len(self._text), "a label is missing" if self._text.strip(" \t") else "no label")
        self._reduce(0)
        if self._waiting:
            raise self._error(self._waiting[-1][1], "a parenthesis that is not closed")
        return Expression(
            text="".join(self._printed),
            program=tuple(self._program),
            ordered_atoms=tuple(self._names),
            conjunction=all(isinstance(step, Atom) or step is Operator.AND for step in self._program),
        )

    def _operand(self, token: _Token) -> bool:
        """Take what may stand where an operand starts; whether an operand is still due."""
        if isinstance(token.what, Atom):
            self._program.append(token.what)
            self._names.setdefault(token.what.name)
            self._printed.append(quote(token.what.name))
            self._negate()
            return False
        if token.what == "(":
            self._waiting.append((None, token.position))
        elif token.what == Operator.NOT:
            if self._waiting and self._waiting[-1][0] is Operator.NOT:
                raise self._error(token.position, "a second '!' (write !(!...))")
            self._waiting.append((Operator.NOT, token.position))
        else:
            raise self._error(token.position, f"a label is missing before {token.what!r}")
        self._printed.append(token.what)
        return True

    def _operator(self, token: _Token) -> bool:
        """Take what may stand after an operand; whether an operand is due next."""
        if isinstance(token.what, Atom) or token.what in ("(", Operator.NOT):
            raise self._error(token.position, "an operator is missing (labels with blanks need double quotes)")
        self._printed.append(token.what)
        if token.what == ")":
            self._reduce(0)
            if not self._waiting:
                raise self._error(token.position, "a ')' without its '('")
            self._waiting.pop()
            self._negate()
            return False
        operator = Operator(token.what)
        if operator is Operator.IMPLIES:
            self._reduce(_BINDS[operator] + 1)
            if self._waiting and self._waiting[-1][0] is Operator.IMPLIES:
                raise self._error(token.position, "a second '->' (say with parentheses which comes first)")
        else:
            self._reduce(_BINDS[operator])
        self._waiting.append((operator, token.position))
        return True

    def _negate(self) -> None:
        """An operand is complete: a `!` before it binds tighter than anything after it."""
        if self._waiting and self._waiting[-1][0] is Operator.NOT:
            self._waiting.pop()
            self._program.append(Operator.NOT)

    def _reduce(self, binds: int) -> None:
        """Write the waiting operators that bind at least as tightly, up to an open parenthesis."""
        while self._waiting and (top := self._waiting[-1][0]) is not None and _BINDS[top] >= binds:
            self._program.append(top)
            self._waiting.pop()

    def _error(self, position: int, problem: str) -> LabelSyntaxError:
        return LabelSyntaxError(self._text, position, problem)
