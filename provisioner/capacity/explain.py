"""The answer to "why does my build wait": every template's yes, no or wait, in words for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from provisioner.capacity.room import Plant, Tally, room_for
from provisioner.routing.match import Decline, Match, Routing


class Verdict(StrEnum):
    """What a template, or all of them together, say to an item."""

    YES = "yes"  # it would get an agent now
    WAIT = "wait"  # it will get one when there is room
    NO = "no"  # it gets none from here


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateAnswer:
    """One template's part of an explanation."""

    template: str
    verdict: Verdict
    provider: str | None  # that would take it now
    labels: tuple[str, ...]  # that the node would carry; none where the template does not serve the item
    reasons: tuple[str, ...]

    def line(self) -> str:
        """For a person: `maven: yes, on big-box`."""
        where = f", on {self.provider}" if self.provider else ""
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{self.template}: {self.verdict}{where}{why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why an item gets an agent, waits for one, or gets none; templates stand in the order they are asked."""

    subject: str  # the item or the label expression, as the person asked
    verdict: Verdict
    template: str | None  # the one that serves it
    provider: str | None  # that would take it now
    agent: str | None  # that serves it already
    reasons: tuple[str, ...]  # what it waits for, or why there is nothing for it
    answers: tuple[TemplateAnswer, ...]

    def lines(self) -> tuple[str, ...]:
        """For a person: the outcome first, then a line for each template."""
        return (self._outcome(), *(f"  {answer.line()}" for answer in self.answers))

    def as_dict(self) -> dict[str, object]:
        """The same for `--json` and the API."""
        return {
            "subject": self.subject,
            "verdict": self.verdict.value,
            "template": self.template,
            "provider": self.provider,
            "agent": self.agent,
            "reasons": list(self.reasons),
            "templates": [
                {
                    "template": answer.template,
                    "verdict": answer.verdict.value,
                    "provider": answer.provider,
                    "labels": list(answer.labels),
                    "reasons": list(answer.reasons),
                }
                for answer in self.answers
            ],
        }

    def _outcome(self) -> str:
        if self.agent is not None:
            return f"{self.subject}: agent {self.agent} serves it already"
        if self.verdict is Verdict.YES:
            return f"{self.subject}: template {self.template} serves it, provider {self.provider} would take it now"
        why = "; ".join(self.reasons)
        if self.verdict is Verdict.WAIT:
            return f"{self.subject}: template {self.template} serves it; it waits: {why}"
        return f"{self.subject}: no template serves it: {why}"


def explain(
    subject: str,
    routing: Routing,
    *,
    plant: Plant,
    tally: Tally,
    agent: str | None = None,
    also: Iterable[str] = (),
    failed_at: Sequence[str] = (),
    ready: Mapping[str, str] | None = None,
) -> Explanation:
    """Explain one item, or one label expression, as things stand.

    Args:
        subject: what to call it: `queue item 17 of team-a/app`, `label maven&&linux`.
        routing: what the router says about it.
        plant: templates, providers and limits, with the state of each provider.
        tally: the agents that hold a slot.
        agent: the agent that serves it already, if there is one.
        also: what else keeps it waiting, a sentence each: a pause after a failed launch, the sidecar stopping.
        failed_at: providers at which a launch for it failed, latest last.
        ready: by template, the provider of an agent on standby that could be given to it now.
    """
    answers = tuple(_answers(routing, plant, tally, agent, tuple(also), failed_at, ready or {}))
    winner = routing.winner
    serving = next((answer for answer in answers if winner is not None and answer.template == winner.template), None)
    return Explanation(
        subject=subject,
        verdict=serving.verdict if serving else Verdict.YES if agent else Verdict.NO,
        template=serving.template if serving else None,
        provider=serving.provider if serving else None,
        agent=agent,
        reasons=serving.reasons if serving else () if agent else _common(answers),
        answers=answers,
    )


def _answers(
    routing: Routing,
    plant: Plant,
    tally: Tally,
    agent: str | None,
    also: tuple[str, ...],
    failed_at: Sequence[str],
    ready: Mapping[str, str],
) -> Iterator[TemplateAnswer]:
    winner = routing.winner
    for answer in routing.answers:
        match answer:
            case Decline():
                yield _answer(answer, Verdict.NO, answer.reasons)
            case Match() if answer is not winner and winner is not None:
                first = f"it matches too, but template {winner.template} comes before it and alone serves the item"
                yield _answer(answer, Verdict.NO, (first,))
            case Match() if agent is not None:
                yield _answer(answer, Verdict.YES, (f"agent {agent} serves it already",))
            case Match() if answer.template in ready and not also:
                yield _answer(answer, Verdict.YES, (), provider=ready[answer.template])
            case Match():
                room = room_for(answer.template, plant, tally, failed_at)
                reasons = (*also, *room.reasons)
                if reasons:
                    yield _answer(answer, Verdict.WAIT, reasons)
                else:
                    yield _answer(answer, Verdict.YES, (), provider=room.provider)


def _answer(
    answer: Match | Decline, verdict: Verdict, reasons: tuple[str, ...], *, provider: str | None = None
) -> TemplateAnswer:
    labels = answer.labels if isinstance(answer, Match) else ()
    return TemplateAnswer(template=answer.template, verdict=verdict, provider=provider, labels=labels, reasons=reasons)


def _common(answers: tuple[TemplateAnswer, ...]) -> tuple[str, ...]:
    """What all templates say alike, once; where they differ each says it in its own line."""
    if not answers:
        return ("no template is configured",)
    alike = {answer.reasons for answer in answers}
    return alike.pop() if len(alike) == 1 else ("every template declines, each for its own reason",)
