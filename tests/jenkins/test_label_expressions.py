"""Our label expressions against the controller's own: the same texts parse, the same labels match."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from controller import RealController

from provisioner.routing.expression import Expression, LabelSyntaxError, parse, read

PLAIN = [
    "linux",
    "maven",
    "a",
    "b",
    "c",
    "x64",
    "-",
    "--",
    "a-",
    "-a",
    "a--b",
    "a:b",
    "image=maven:3.9",
    "reg.example.org/ci/x",
    "a.b",
    ".",
    "..",
    "a.",
    "a=b",
    "a;b",
    "a,b",
    "1",
    "$x",
    "*",
    "?",
    "%20",
    "\\",
    "a\\b",
    "[x]",
    "{x}",
    "true",
    "ünïcode",
    "日本",
    "😀",
    "a\xa0b",
    "\u2028",
    "a\nb",
    "\rx",
    "\x0c",
    "\x7f",
    "\x85",
    "@",
    "#",
    "~",
    "^",
    "+",
    "_",
    "a/b//c",
]
QUOTED_ONLY = (
    "",
    " ",
    "two words",
    "zz&&zy",
    "zz->zy",
    "(zz)",
    "!zz",
    "<",
    "zz\tzy",
    "it's",
    'say "hi"',
    "'",
    '"',
    "zz|",
    "&",
)
SOUP = [
    "&",
    "|",
    "!",
    "<",
    ">",
    "(",
    ")",
    "-",
    '"',
    "'",
    " ",
    "\t",
    "\\",
    "a",
    "b",
    "\n",
    "\r",
    "ü",
    "&&",
    "||",
    "->",
    "<->",
]
BLANKS = ("", "", "", " ", "  ", "\t", " \t ")

#: Reads the cases, asks Jenkins, prints one line of ASCII JSON. `MODE` is `parse` or `assigned`.
GROOVY = """
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import hudson.model.Label
import hudson.model.labels.LabelAtom
import jenkins.model.Jenkins

def text = new String(([%s].join('')).decodeBase64(), 'UTF-8')
def answers = new JsonSlurper().parseText(text).collect { entry ->
    try {
        def label = '%s' == 'parse' ? Label.parseExpression(entry.text) : Jenkins.get().getLabel(entry.text)
        return [printed: label.expression,
                matches: entry.sets.collect { set -> label.matches(set.collect { new LabelAtom(it) }) }]
    } catch (IllegalArgumentException e) {
        return [refused: e.message ?: 'refused']
    } catch (Throwable e) {
        return [broken: e.toString()]
    }
}
println 'ANSWERS ' + JsonOutput.toJson(answers)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A text, and the sets of labels on which it is evaluated."""

    text: str
    sets: tuple[tuple[str, ...], ...]


def ask(script: Callable[[str], str], cases: Sequence[Case], mode: str) -> list[dict[str, Any]]:
    """The controller's answers, one script for each 1000 cases; data travels as base64, never as code."""
    answers: list[dict[str, Any]] = []
    for start in range(0, len(cases), 1000):
        some = [{"text": case.text, "sets": case.sets} for case in cases[start : start + 1000]]
        data = base64.b64encode(json.dumps(some).encode()).decode()
        # a string constant of a Java class may have 65535 bytes at most
        pieces = ",".join(f"'{data[at : at + 60_000]}'" for at in range(0, len(data), 60_000))
        out = script(GROOVY % (pieces, mode))
        lines = [line for line in out.splitlines() if line.startswith("ANSWERS ")]
        assert len(lines) == 1, out[-2000:]
        answers += json.loads(lines[0].removeprefix("ANSWERS "))
    assert len(answers) == len(cases)
    return answers


def differences(script: Callable[[str], str], cases: Sequence[Case]) -> list[str]:
    """Where we and the controller do not agree on a text; empty is what we want."""
    found = []
    for case, theirs in zip(cases, ask(script, cases, "parse"), strict=True):
        ours: dict[str, Any]
        try:
            expression = parse(case.text)
            ours = {
                "printed": str(expression),
                "matches": [expression.matches(frozenset(atoms)) for atoms in case.sets],
            }
        except LabelSyntaxError as error:
            ours, expression = {"refused": str(error)}, None
        if "refused" in ours and "refused" in theirs:
            continue
        if expression is not None and has_quotes(expression):
            ours["printed"] = theirs.get("printed")  # Jenkins prints such an atom bare and could not read it again
        if ours != theirs:
            found.append(f"{case!r}: ours {ours}, theirs {theirs}")
    return found


def has_quotes(expression: Expression) -> bool:
    return any("'" in atom or '"' in atom for atom in expression.atoms())


def written(rng: random.Random, atom: str) -> str:
    """The atom as somebody may write it."""
    if atom not in QUOTED_ONLY and rng.random() < 0.7:
        return atom
    out = []
    for character in atom:
        always = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r"}.get(character)
        may = {"'": "\\'", "\t": "\\t", "\x0c": "\\f", "\b": "\\b"}.get(character)
        out.append(always or (may if may and rng.random() < 0.5 else character))
    return '"' + "".join(out) + '"'


def valid(rng: random.Random, depth: int) -> str:
    """Mostly valid: `->` is sometimes chained and `!` doubled, which is for the parsers to refuse."""
    if depth == 0 or rng.random() < 0.2:
        return written(rng, rng.choice(PLAIN if rng.random() < 0.8 else QUOTED_ONLY))
    blank = rng.choice(BLANKS)
    match rng.randrange(4):
        case 0:
            return "!" + blank + (f"({valid(rng, depth - 1)})" if rng.random() < 0.8 else valid(rng, depth - 1))
        case 1:
            return f"({blank}{valid(rng, depth - 1)}{blank})"
        case _:
            sign = rng.choice(("&&", "&&", "||", "||", "->", "<->"))
            return f"{valid(rng, depth - 1)}{blank}{sign}{rng.choice(BLANKS)}{valid(rng, depth - 1)}"


def mutated(rng: random.Random) -> str:
    text = list(valid(rng, 3))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(3):
            case 0:
                text.insert(at, rng.choice(SOUP))
            case 1:
                del text[at : at + 1]
            case _:
                text[at : at + 1] = [rng.choice(SOUP)]
    return "".join(text)


def soup(rng: random.Random) -> str:
    return "".join(rng.choice(SOUP) for _ in range(rng.randrange(9)))


def case_of(rng: random.Random, text: str) -> Case:
    try:
        named = sorted(parse(text).atoms())
    except LabelSyntaxError:
        named = ["a", "b", "linux"]
    sets = tuple(tuple(atom for atom in named if rng.random() < 0.5) for _ in range(4))
    return Case(text=text, sets=(*sets, tuple(named), tuple(rng.sample(PLAIN, 5))))


def random_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(seed)
    kinds = (lambda: valid(rng, rng.randrange(5)), lambda: mutated(rng), lambda: soup(rng))
    return [case_of(rng, kinds[number % 3]()) for number in range(count)]


@pytest.mark.jenkins
def test_random_texts_parse_and_match_as_on_the_controller(real_jenkins: RealController) -> None:
    cases = random_cases(seed=20240614, count=6000)
    parsed = sum(1 for case in cases if not _refused(case.text))
    assert 1500 < parsed < 4500, "the generator no longer makes both valid and invalid texts"
    assert differences(real_jenkins.script, cases) == []


@pytest.mark.jenkins
def test_every_short_text_of_signs_parses_and_matches_as_on_the_controller(real_jenkins: RealController) -> None:
    rng = random.Random(1)
    texts = [""]
    layer = [""]
    for _ in range(3):
        layer = [text + character for text in layer for character in "a!&|<>-()\"' \t\\\n"]
        texts += layer
    assert differences(real_jenkins.script, [case_of(rng, text) for text in texts]) == []


@pytest.mark.jenkins
def test_the_label_of_a_job_asks_for_the_same_after_the_controller_printed_it(real_jenkins: RealController) -> None:
    """Jenkins takes what it cannot parse as one label; we read what it prints for that."""
    rng = random.Random(7)
    names = {atom: f"rt-{number}" for number, atom in enumerate(PLAIN)}
    texts = [f"rt{number} {kind}" for number, kind in enumerate(("words", "it's", "(", "&&", "a->b->c", '"x', "!!y"))]
    texts += [
        f"{names[left]}{sign}{names[right]}"
        for sign in ("&&", "||", "->", "<->")
        for left in PLAIN[:6]
        for right in PLAIN[6:9]
    ]
    texts += [atom for atom in PLAIN if atom not in "a b c"]
    cases = [Case(text=text, sets=((), (text,), tuple(rng.sample(sorted(names.values()), 20)))) for text in texts]
    for case, theirs in zip(cases, ask(real_jenkins.script, cases, "assigned"), strict=True):
        expression, _ = read(theirs["printed"])
        assert [expression.matches(frozenset(atoms)) for atoms in case.sets] == theirs["matches"], (case, theirs)


def _refused(text: str) -> bool:
    try:
        parse(text)
    except LabelSyntaxError:
        return True
    return False
