"""The answer to "why does my build wait": the yes, no or wait of every template and provider, in words for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum

from provisioner.capacity.placement import wanted_by
from provisioner.capacity.plant import Plant, Tally, Wanted
from provisioner.capacity.room import Room, providers_for, room_for
from provisioner.routing.match import Decline, Match, Routing

#: What is expected to happen to a build that cannot be served.
ENDED = "its build ends with that reason"


class Verdict(StrEnum):
    """What a template, or all of them together, say to an item."""

    YES = "yes"  # it would get an agent now
    WAIT = "wait"  # it will get one when there is room
    NO = "no"  # it gets none: from no template, or because its build is ended


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateAnswer:
    """One template's part of an explanation."""

    template: str
    verdict: Verdict
    provider: str | None  # that would take it now
    labels: tuple[str, ...]  # that the node would carry; none where the template does not serve the item
    reasons: tuple[str, ...]
    next_step: str = ""  # only of the one that serves it

    def line(self) -> str:
        """For a person: `maven: yes, on big-box`."""
        where = f", on {self.provider}" if self.provider else ""
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{self.template}: {self.verdict}{where}{why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderAnswer:
    """One provider's part of an explanation."""

    provider: str
    verdict: Verdict
    reason: str

    def line(self) -> str:
        """For a person: `provider big-box: wait: provider big-box is full (10 of 10 agents)`."""
        return f"provider {self.provider}: {self.verdict}: {self.reason}"


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
    providers: tuple[ProviderAnswer, ...] = ()  # all of them, in the order in which they are asked
    next_step: str = ""  # what is expected to happen

    def lines(self) -> tuple[str, ...]:
        """For a person: the outcome first, then what follows, then a line for each template and provider."""
        return (
            self._outcome(),
            f"  next: {self.next_step}",
            *(f"  template {answer.line()}" for answer in self.answers),
            *(f"  {provider.line()}" for provider in self.providers),
        )

    def as_dict(self) -> dict[str, object]:
        """The same for `--json` and the API."""
        return {
            "subject": self.subject,
            "verdict": self.verdict.value,
            "template": self.template,
            "provider": self.provider,
            "agent": self.agent,
            "reasons": list(self.reasons),
            "next_step": self.next_step,
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
            "providers": [
                {"provider": one.provider, "verdict": one.verdict.value, "reason": one.reason} for one in self.providers
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
        if self.template is not None:
            return f"{self.subject}: template {self.template} would serve it, and its build is ended: {why}"
        return f"{self.subject}: no template serves it: {why}"


def explain(
    subject: str,
    routing: Routing,
    *,
    plant: Plant,
    tally: Tally,
    controller: str = "",
    agent: str | None = None,
    also: Iterable[str] = (),
    then: str = "",
    ends: str = "",
    failed_at: Sequence[str] = (),
    ready: Mapping[str, str] | None = None,
    unfit: AbstractSet[str] = frozenset(),
) -> Explanation:
    """Explain one item, or one label expression, as things stand.

    Args:
        subject: what to call it: `queue item 17 of team-a/app`, `label maven&&linux`.
        routing: what the router says about it.
        plant: templates, providers and limits, with the state of each provider.
        tally: the agents that hold a slot.
        controller: whose queue it stands in; empty: of none in particular, whose cap is then left out.
        agent: the agent that serves it already, if there is one.
        also: what else keeps it waiting, a sentence each: a pause after a failed launch, the sidecar stopping.
        then: what ends that, where it is not the room that it waits for.
        ends: why it cannot be served, so that its build is ended; empty: it can.
        failed_at: providers at which a launch for it failed, latest last.
        ready: by template, the provider of an agent on standby that could be given to it now.
        unfit: providers that cannot give what the item asks for.
    """
    asked = _Question(
        routing=routing,
        plant=plant,
        tally=tally,
        controller=controller,
        agent=agent,
        also=tuple(also),
        then=then,
        ends=ends,
        failed_at=tuple(failed_at),
        ready=ready or {},
        unfit=frozenset(unfit),
    )
    answers = tuple(asked.answers())
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
        providers=tuple(asked.providers()),
        next_step=serving.next_step if serving else _left_alone(agent),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """What `explain` was asked."""

    routing: Routing
    plant: Plant
    tally: Tally
    controller: str
    agent: str | None
    also: tuple[str, ...]
    then: str
    ends: str
    failed_at: tuple[str, ...]
    ready: Mapping[str, str]
    unfit: frozenset[str]

    def answers(self) -> Iterator[TemplateAnswer]:
        """Every template's, in the order they are asked."""
        winner = self.routing.winner
        for answer in self.routing.answers:
            match answer:
                case Decline():
                    yield _answer(answer, Verdict.NO, answer.reasons)
                case Match() if answer is not winner and winner is not None:
                    first = f"it matches too, but template {winner.template} comes before it and alone serves the item"
                    yield _answer(answer, Verdict.NO, (first,))
                case Match():
                    yield self._serving(answer)

    def _serving(self, winner: Match) -> TemplateAnswer:
        if self.agent is not None:
            why = f"agent {self.agent} serves it already"
            return _answer(winner, Verdict.YES, (why,), next_step=_left_alone(self.agent))
        if self.ends:
            return _answer(winner, Verdict.NO, (self.ends,), next_step=ENDED)
        if winner.template in self.ready and not self.also:
            at = self.ready[winner.template]
            step = f"the agent on standby at {at} is given to it"
            return _answer(winner, Verdict.YES, (), provider=at, next_step=step)
        room = self._room(winner)
        reasons = (*self.also, *room.reasons)
        step = self.then if self.also and self.then else room.next_step
        if reasons:
            return _answer(winner, Verdict.WAIT, reasons, next_step=step)
        return _answer(winner, Verdict.YES, (), provider=room.provider, next_step=step)

    def _room(self, winner: Match) -> Room:
        return room_for(self._wanted(winner), self.plant, self.tally, self.failed_at)

    def _wanted(self, winner: Match) -> Wanted:
        wanted = wanted_by(winner, self.controller, self.plant.limits.labels.keys())
        return replace(wanted, unfit=self.unfit)

    def providers(self) -> Iterator[ProviderAnswer]:
        """Every provider's: those of the template that serves it in their order, then the others."""
        winner = self.routing.winner
        asked: set[str] = set()
        if winner is not None:
            above = self._room(winner).above
            first = ""
            for one in providers_for(self._wanted(winner), self.plant, self.tally, self.failed_at):
                asked.add(one.provider)
                if self.ends:
                    yield ProviderAnswer(provider=one.provider, verdict=Verdict.NO, reason="nothing is started for it")
                elif one.hurdle is not None:
                    yield ProviderAnswer(provider=one.provider, verdict=Verdict.WAIT, reason=one.hurdle.reason)
                elif above:
                    held = f"it has room, but {above[0].reason}"
                    yield ProviderAnswer(provider=one.provider, verdict=Verdict.WAIT, reason=held)
                else:
                    why = f"it has room too, and comes after {first}" if first else "it has room and is asked first"
                    first = first or one.provider
                    yield ProviderAnswer(provider=one.provider, verdict=Verdict.YES, reason=why)
        for name in self.plant.providers:
            if name not in asked:
                why = f"template {winner.template} does not run there" if winner else "no template serves it"
                yield ProviderAnswer(provider=name, verdict=Verdict.NO, reason=why)


def _left_alone(agent: str | None) -> str:
    if agent is not None:
        return f"its build starts as soon as agent {agent} is connected"
    return "nothing from here: it is left to other nodes and clouds"


def _answer(
    answer: Match | Decline,
    verdict: Verdict,
    reasons: tuple[str, ...],
    *,
    provider: str | None = None,
    next_step: str = "",
) -> TemplateAnswer:
    return TemplateAnswer(
        template=answer.template,
        verdict=verdict,
        provider=provider,
        labels=answer.labels if isinstance(answer, Match) else (),
        reasons=reasons,
        next_step=next_step,
    )


def _common(answers: tuple[TemplateAnswer, ...]) -> tuple[str, ...]:
    """What all templates say alike, once; where they differ each says it in its own line."""
    if not answers:
        return ("no template is configured",)
    alike = {answer.reasons for answer in answers}
    return alike.pop() if len(alike) == 1 else ("every template declines, each for its own reason",)
