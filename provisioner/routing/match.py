"""Which templates serve a queue item, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Protocol, TypeVar

from provisioner.model.queue import QueueItem
from provisioner.routing.expression import Expression, read
from provisioner.routing.patterns import JobGlobs, LabelPattern

#: Ways to fill a template's place holders that are tried for one expression; a hostile one could have millions.
MAX_TRIALS = 500
#: The same in evaluated operands and operators, for long expressions.
MAX_STEPS = 200_000

#: Entries that a router keeps of each kind; beyond, it starts anew. Jobs come and go for years.
MAX_REMEMBERED = 20_000


class TemplateRules(Protocol):
    """What routing must know of a template; the names are the keys of the configuration."""

    @property
    def name(self) -> str:
        """Unique among the templates."""
        ...

    @property
    def controllers(self) -> Sequence[str]:
        """Controllers that it serves; none: all."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Its labels, also with place holders."""
        ...

    @property
    def jobs(self) -> Sequence[str]:
        """Globs of the jobs that may use it; none: all."""
        ...

    @property
    def priority(self) -> int:
        """The highest match wins."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """The template serves the item."""

    template: str
    labels: tuple[str, ...]  # for the node; unbound patterns are left out
    bindings: Mapping[str, str] = field(default_factory=dict, hash=False)  # of place holders such as {image}


@dataclass(frozen=True, kw_only=True, slots=True)
class Decline:
    """The template does not serve the item."""

    template: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """Every template's answer, highest priority first, then file order."""

    answers: tuple[Match | Decline, ...]
    matches: tuple[Match, ...]
    declines: tuple[Decline, ...]

    @classmethod
    def of(cls, answers: Iterable[Match | Decline]) -> Routing:
        """Gather answers that are in order."""
        every = tuple(answers)
        return cls(
            answers=every,
            matches=tuple(answer for answer in every if isinstance(answer, Match)),
            declines=tuple(answer for answer in every if isinstance(answer, Decline)),
        )

    @property
    def winner(self) -> Match | None:
        """The one template that serves the item; None: no request of ours."""
        return self.matches[0] if self.matches else None


def match(item: QueueItem, templates: Iterable[TemplateRules]) -> Routing:
    """Route one item. Many items go through one `Router`."""
    return Router(templates).match(item)


class Router:
    """Routes items over the templates of one configuration; a new configuration gets a new router.

    It remembers its answers for each label, and for each job which templates are closed to it, so that
    a full queue costs two look-ups an item. It holds no other state: equal items get equal answers.
    """

    def __init__(self, templates: Iterable[TemplateRules]) -> None:
        rules = [_Rule(template) for template in templates]
        self._rules = sorted(rules, key=lambda rule: -rule.priority)  # stable: file order within a priority
        self._restricted = [rule for rule in self._rules if rule.restricted]
        self._by_label: dict[str | None, tuple[Match | Decline, ...]] = {}
        self._by_job: dict[tuple[str, str], _Closed] = {}
        self._routings: dict[tuple[str | None, _Closed], Routing] = {}

    def match(self, item: QueueItem) -> Routing:
        """Which templates serve the item."""
        return self.match_label(item.label, job=item.job, controller=item.key.controller)

    def match_label(self, label: str | None, *, job: str | None = None, controller: str | None = None) -> Routing:
        """Which templates serve a label expression; without a job or controller, leave that restriction out."""
        closed = self._closed(job, controller)
        found = self._routings.get((label, closed))
        if found is None:
            reasons = dict(closed)
            found = Routing.of(_with(answer, reasons.get(answer.template, ())) for answer in self._answers(label))
            _remember(self._routings, (label, closed), found)
        return found

    def _answers(self, label: str | None) -> tuple[Match | Decline, ...]:
        answers = self._by_label.get(label)
        if answers is None:
            answers = tuple(_answers(self._rules, label))
            _remember(self._by_label, label, answers)
        return answers

    def _closed(self, job: str | None, controller: str | None) -> _Closed:
        if not self._restricted:
            return ()
        key = (job or "", controller or "")  # neither name is ever empty
        closed = self._by_job.get(key)
        if closed is None:
            found = ((rule.name, rule.closed_to(job, controller)) for rule in self._restricted)
            closed = tuple((name, reasons) for name, reasons in found if reasons)
            _remember(self._by_job, key, closed)
        return closed


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

#: Templates that are closed to a job, with the reasons.
_Closed = tuple[tuple[str, tuple[str, ...]], ...]


def _remember(memory: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(memory) >= MAX_REMEMBERED:
        memory.clear()
    memory[key] = value


def _with(answer: Match | Decline, reasons: tuple[str, ...]) -> Match | Decline:
    if not reasons:
        return answer
    before = answer.reasons if isinstance(answer, Decline) else ()
    return Decline(template=answer.template, reasons=(*before, *reasons))


def _answers(rules: Iterable[_Rule], label: str | None) -> Iterator[Match | Decline]:
    if label is None:
        for rule in rules:
            yield Decline(template=rule.name, reasons=("the job asks for no label",))
        return
    expression, problem = read(label)
    for rule in rules:
        answer = rule.answer(expression)
        if problem is not None and isinstance(answer, Decline):
            # Jenkins takes such a text as one label; whoever wrote it meant an expression
            answer = Decline(template=rule.name, reasons=(problem.message,))
        yield answer


class _Rule:
    """A template, read for matching."""

    def __init__(self, template: TemplateRules) -> None:
        self.name = template.name
        self.priority = template.priority
        self._controllers = frozenset(template.controllers)
        self._jobs = JobGlobs.of(template.jobs)
        self._labels = tuple((label, LabelPattern.of(label)) for label in template.labels)
        self._fixed = frozenset(label for label, pattern in self._labels if pattern is None)
        self._patterns = [(label, pattern) for label, pattern in self._labels if pattern is not None]

    @property
    def restricted(self) -> bool:
        return bool(self._controllers) or not self._jobs.open

    def closed_to(self, job: str | None, controller: str | None) -> tuple[str, ...]:
        reasons = []
        if controller is not None and self._controllers and controller not in self._controllers:
            reasons.append(
                f"it serves {_list(sorted(self._controllers), 'controller', 'controllers')} only, not {controller}"
            )
        if job is not None and not self._jobs.fit(job):
            reasons.append(f"the job's full name fits none of its `jobs` ({', '.join(self._jobs.globs)})")
        return tuple(reasons)

    def answer(self, expression: Expression) -> Match | Decline:
        asked = [atom for atom in expression.ordered_atoms if atom not in self._fixed]
        if expression.conjunction and (missing := [atom for atom in asked if not self._could_be(atom)]):
            # the usual case by far, a label of another template: no need to search
            reason = f"it does not have {_list(missing, 'the label', 'the labels')}"
            return Decline(template=self.name, reasons=(reason,))
        trials = max(10, min(MAX_TRIALS, MAX_STEPS // len(expression.program)))
        for number, filled in enumerate(self._fillings(asked)):
            if number == trials:
                many = "there are too many ways to fill its place holders; write a simpler expression"
                return Decline(template=self.name, reasons=(many,))
            bindings = _together(bound for _, bound in filled.values())
            if bindings is None:
                continue
            if expression.matches(self._fixed.union(atom for atom, _ in filled.values())):
                labels = tuple(dict.fromkeys(self._node_labels(filled)))
                return Match(template=self.name, labels=labels, bindings=bindings)
        return Decline(template=self.name, reasons=(self._why_not(expression, asked),))

    def _fillings(self, asked: Sequence[str]) -> Iterator[_Filling]:
        """Ways to fill the place holders from the labels asked for: nothing first, then as few as possible."""
        yield {}
        fitting = {
            label: [(atom, bound) for atom in asked if (bound := pattern.bind(atom)) is not None]
            for label, pattern in self._patterns
        }
        usable = [label for label, atoms in fitting.items() if atoms]
        for count in range(1, len(usable) + 1):
            for labels in combinations(usable, count):
                for atoms in product(*(fitting[label] for label in labels)):
                    yield dict(zip(labels, atoms, strict=True))

    def _node_labels(self, filled: _Filling) -> Iterator[str]:
        for label, pattern in self._labels:
            if pattern is None:
                yield label
            elif label in filled:
                yield filled[label][0]

    def _could_be(self, atom: str) -> bool:
        return any(pattern.bind(atom) for _, pattern in self._patterns)

    def _why_not(self, expression: Expression, asked: Sequence[str]) -> str:
        if expression.conjunction:
            return f"its place holders cannot stand for all of {_list(asked, 'the label', 'the labels')} at once"
        labels = ", ".join(label for label, _ in self._labels) or "none"
        return f"its labels ({labels}) do not satisfy {_short(str(expression))}"


#: For each label pattern that is filled: the label asked for, and what its place holders stand for.
_Filling = Mapping[str, tuple[str, Mapping[str, str]]]


def _together(bindings: Iterable[Mapping[str, str]]) -> Mapping[str, str] | None:
    """All bindings in one; None if a place holder would stand for two things."""
    together: dict[str, str] = {}
    for bound in bindings:
        for name, value in bound.items():
            if together.setdefault(name, value) != value:
                return None
    return together


def _list(names: Iterable[str], one: str, several: str) -> str:
    shown = list(names)
    text = ", ".join(_short(name) for name in shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
    return f"{one if len(shown) == 1 else several} {text}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
