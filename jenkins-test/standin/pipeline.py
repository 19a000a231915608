"""A small subset of Pipeline: enough for jobs with several `node` blocks, in turn or in parallel."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s+|//[^\n]*|/\*.*?\*/
    |(?P<text>'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<word>[A-Za-z_][A-Za-z_0-9.]*)
    |(?P<sign>[{}()\[\],:;=])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"', "$": "\0dollar"}
KNOWN = frozenset(
    {"node", "sh", "sleep", "echo", "parallel", "stage", "error", "catchError", "retry", "timeout", "timestamps"}
)


class BadScript(ValueError):  # noqa: N818
    """A script that is outside of the subset."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string; `live` where ${…} is to be filled in."""

    value: str
    live: bool = False


@dataclass(slots=True)
class Step:
    """One step with its arguments and, for a block, its body; `parallel` keeps its branches by name."""

    name: str
    args: list[Text | float] = field(default_factory=list)
    named: dict[str, Text | float | bool | str] = field(default_factory=dict)
    body: list[Step] | None = None
    branches: dict[str, list[Step]] = field(default_factory=dict)


def parse(script: str) -> list[Step]:
    """Raises BadScript with what is not understood."""
    parser = _Parser(_tokens(script))
    if parser.looking_at("pipeline"):
        return parser.declarative()
    return parser.steps(until="")


def _tokens(script: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(script):
        match = _TOKEN.match(script, at)
        if not match:
            raise BadScript(f"unexpected {script[at]!r} in line {script.count(chr(10), 0, at) + 1}")
        at = match.end()
        if match.lastgroup:
            found.append((match.lastgroup, match.group()))
    return found


def _text(raw: str) -> Text:
    triple = raw[:3] in ("'''", '"""')
    inner = raw[3:-3] if triple else raw[1:-1]
    return Text(re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), inner, flags=re.DOTALL), raw[0] == '"')


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        i = self.at + ahead
        return self.tokens[i] if i < len(self.tokens) else ("end", "")

    def looking_at(self, text: str) -> bool:
        return self.peek()[1] == text

    def take(self, text: str | None = None) -> str:
        kind, found = self.peek()
        if kind == "end" or (text is not None and found != text):
            raise BadScript(f"expected {text or 'more'!r}, found {found or 'the end'!r}")
        self.at += 1
        return found

    def steps(self, until: str) -> list[Step]:
        found: list[Step] = []
        while True:
            while self.looking_at(";"):
                self.at += 1
            if self.peek()[0] == "end":
                if until:
                    raise BadScript(f"a {until} is missing")
                return found
            if self.looking_at(until):
                self.at += 1
                return found
            found.append(self.step())

    def step(self) -> Step:
        kind, name = self.peek()
        if name == "try":
            return self.attempt()
        if name == "throw":
            self.at += 1
            return Step("throw", [], {"name": self.take()})
        if kind != "word" or name not in KNOWN:
            raise BadScript(f"the stand-in does not know the step {name!r}; it knows {', '.join(sorted(KNOWN))}")
        self.at += 1
        step = Step(name)
        if self.looking_at("("):
            self.at += 1
            self.arguments(step, ")")
            self.take(")")
        elif not self.looking_at("{") and self.peek()[0] in ("text", "number", "word"):
            self.arguments(step, "")
        if self.looking_at("{"):
            self.at += 1
            step.body = self.steps("}")
        return step

    def attempt(self) -> Step:
        """`try {…} catch (name) {…} finally {…}`, either of the two may be left out."""
        self.take("try")
        self.take("{")
        step = Step("try", body=self.steps("}"))
        if self.looking_at("catch"):
            self.take("catch")
            self.take("(")
            words = []
            while not self.looking_at(")"):
                words.append(self.take())
            self.take(")")
            step.named["name"] = words[-1] if words else ""
            self.take("{")
            step.branches["catch"] = self.steps("}")
        if self.looking_at("finally"):
            self.take("finally")
            self.take("{")
            step.branches["finally"] = self.steps("}")
        return step

    def arguments(self, step: Step, end: str) -> None:
        while not (end and self.looking_at(end)):
            kind, text = self.peek()
            if self.peek(1)[1] == ":" and kind in ("word", "text"):
                key = _text(text).value if kind == "text" else text
                self.at += 2
                if self.looking_at("{"):
                    self.at += 1
                    step.branches[key] = self.steps("}")
                else:
                    value = self.value()
                    step.named[key] = value
            else:
                value = self.value()
                if isinstance(value, bool):
                    raise BadScript(f"step {step.name} takes no bare {value}")
                step.args.append(value)
            if not self.looking_at(","):
                return
            self.at += 1

    def value(self) -> Text | float | bool:
        kind, text = self.peek()
        self.at += 1
        if kind == "text":
            return _text(text)
        if kind == "number":
            return float(text)
        if text in ("true", "false"):
            return text == "true"
        if re.fullmatch(r"(params|env)\.\w+", text):
            return Text("${" + text + "}", live=True)
        raise BadScript(f"the stand-in does not understand the value {text!r}")

    def declarative(self) -> list[Step]:
        """`pipeline { agent …; stages { stage('x') { agent …; steps { … } } } }` as nested steps."""
        self.take("pipeline")
        self.take("{")
        outer: Step | None = None
        stages: list[Step] = []
        while not self.looking_at("}"):
            section = self.take()
            if section == "agent":
                outer = self.agent()
            elif section == "stages":
                self.take("{")
                while not self.looking_at("}"):
                    stages.append(self.stage())
                self.take("}")
            else:
                raise BadScript(f"the stand-in does not know the section {section!r}")
        self.take("}")
        if outer is None:
            return stages
        outer.body = stages
        return [outer]

    def agent(self) -> Step | None:
        if self.looking_at("{"):
            self.take("{")
            self.take("label")
            value = self.value()
            self.take("}")
            if not isinstance(value, Text):
                raise BadScript("agent { label } takes a text")
            return Step("node", [value])
        word = self.take()
        return Step("node") if word == "any" else None

    def stage(self) -> Step:
        self.take("stage")
        self.take("(")
        name = self.value()
        self.take(")")
        self.take("{")
        agent: Step | None = None
        body: list[Step] = []
        while not self.looking_at("}"):
            section = self.take()
            if section == "agent":
                agent = self.agent()
            elif section == "steps":
                self.take("{")
                body = self.steps("}")
            else:
                raise BadScript(f"the stand-in does not know {section!r} in a stage")
        self.take("}")
        if agent is not None:
            agent.body = body
            body = [agent]
        return Step("stage", [name] if not isinstance(name, bool) else [], {}, body)
