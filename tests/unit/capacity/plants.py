"""Templates, providers and queues as far as capacity looks at them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from provisioner.capacity.placement import Asked, Decision, Declined, Place, Wait
from provisioner.capacity.plant import LAUNCHING, Plant
from provisioner.model.agent import AgentState
from provisioner.model.queue import RequestKey
from provisioner.routing.match import Decline, Match, Routing


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    name: str
    providers: tuple[str, ...] = ("box",)
    max_agents: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    name: str = "box"
    max_agents: int | None = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Caps:
    agents: int | None = 200
    launching: int | None = 20
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class One:
    """An agent."""

    template: str
    provider: str = "box"
    state: AgentState = AgentState.RUNNING
    controller: str = "main"
    labels: tuple[str, ...] = ("x",)


def key(number: int, controller: str = "main") -> RequestKey:
    return RequestKey(controller=controller, queue_id=number, since_ms=number, task=f"job/j{number}/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One item of a queue by the template that wins it; None: no template does."""

    winner: str | None
    controller: str = "main"
    labels: tuple[str, ...] = ("x",)


def queue(*items: Item | str | None) -> list[Asked]:
    """A queue; a text is the template that wins the item."""
    return [_asked(number, item if isinstance(item, Item) else Item(winner=item)) for number, item in enumerate(items)]


def _asked(number: int, item: Item) -> Asked:
    answer: Match | Decline = Decline(template="maven", reasons=("no",))
    if item.winner:
        answer = Match(template=item.winner, labels=item.labels)
    return Asked(key=key(number, item.controller), routing=Routing.of([answer]))


def plant(
    templates: Iterable[Rules] = (Rules(name="maven"),), providers: Iterable[Box] = (Box(),), limits: Caps | None = None
) -> Plant:
    return Plant.of(templates=templates, providers=providers, limits=limits or Caps())


def shown(decisions: Sequence[Decision]) -> list[str]:
    out = []
    for decision in decisions:
        match decision:
            case Place(template=template, provider=provider):
                out.append(f"{template}@{provider}")
            case Wait(reasons=reasons):
                out.append("; ".join(reasons))
            case Declined():
                out.append("declined")
    return out


def over(one_plant: Plant, agents: Iterable[One]) -> list[str]:
    """Every cap that these agents exceed, counted without any of the code under test."""
    live = [agent for agent in agents if agent.state is not AgentState.REMOVED]
    counts = [
        *((f"template {t.name}", sum(a.template == t.name for a in live), t.max_agents)
          for t in one_plant.templates.values()),
        *((f"provider {p.name}", sum(a.provider == p.name for a in live), p.max_agents)
          for p in one_plant.providers.values()),
        *((f"controller {name}", sum(a.controller in (name, "") for a in live), cap)
          for name, cap in one_plant.controllers.items()),
        *((f"label {label}", sum(label in a.labels for a in live), cap)
          for label, cap in one_plant.limits.labels.items()),
        ("agents", len(live), one_plant.limits.agents),
        ("launching", sum(a.state in LAUNCHING for a in live), one_plant.limits.launching),
    ]  # fmt: skip
    return [what for what, have, most in counts if most is not None and have > most]
