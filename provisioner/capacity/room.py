"""What exists, what may exist, and whether there is room for one agent more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

from provisioner.model.agent import AgentState


class TemplateCaps(Protocol):
    """What capacity must know of a template; the names are the keys of the configuration."""

    @property
    def name(self) -> str:
        """Unique among the templates."""
        ...

    @property
    def providers(self) -> Sequence[str]:
        """Where its agents may run, in order of preference."""
        ...

    @property
    def max_agents(self) -> int | None:
        """Most agents of it at any instant; None: no cap of its own."""
        ...


class ProviderCaps(Protocol):
    """What capacity must know of a provider."""

    @property
    def name(self) -> str:
        """Unique among the providers."""
        ...

    @property
    def max_agents(self) -> int | None:
        """Most agents there at any instant; None: no cap of its own."""
        ...


class LimitCaps(Protocol):
    """The bounds over all providers."""

    @property
    def agents(self) -> int | None:
        """Most agents at any instant."""
        ...

    @property
    def launching(self) -> int | None:
        """Most agents that are not yet online."""
        ...


class CountedAgent(Protocol):
    """What capacity must know of an agent; `model.agent.Agent` is one."""

    @property
    def template(self) -> str:
        """Its template's name."""
        ...

    @property
    def provider(self) -> str:
        """Its provider's name."""
        ...

    @property
    def state(self) -> AgentState:
        """Where it is in its life."""
        ...


#: Not yet online. An agent that is being removed is none of these, however far it came.
LAUNCHING: frozenset[AgentState] = frozenset(
    {AgentState.PLANNED, AgentState.REGISTERING, AgentState.STARTING, AgentState.CONNECTING}
)


class ProviderState(StrEnum):
    """Whether anything may be placed at a provider."""

    OPEN = "open"
    DRAINING = "draining"  # an operator said so
    COOLING_DOWN = "cooling_down"  # launches failed there; left alone for a while
    UNREACHABLE = "unreachable"  # it does not answer
    PROBING = "probing"  # one launch at a time, to see whether it works again


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A provider's state, with words for a person: why, and until when."""

    state: ProviderState = ProviderState.OPEN
    reason: str = ""
    until: str = ""

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        until = f" until {self.until}" if self.until else ""
        return f"{self.state.value.replace('_', ' ')}{until}{why}"


_OPEN = Condition()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plant:
    """All that may be used: one configuration, and the state of its providers at this moment."""

    templates: Mapping[str, TemplateCaps]
    providers: Mapping[str, ProviderCaps]
    limits: LimitCaps
    conditions: Mapping[str, Condition] = field(default_factory=dict)  # by provider; open where none is given
    #: By (provider, template), where launches of one template only fail at a provider.
    pair_conditions: Mapping[tuple[str, str], Condition] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        templates: Iterable[TemplateCaps],
        providers: Iterable[ProviderCaps],
        limits: LimitCaps,
        conditions: Mapping[str, Condition] | None = None,
        pair_conditions: Mapping[tuple[str, str], Condition] | None = None,
    ) -> Self:
        """The same from the configuration's own lists."""
        return cls(
            templates={template.name: template for template in templates},
            providers={provider.name: provider for provider in providers},
            limits=limits,
            conditions=conditions or {},
            pair_conditions=pair_conditions or {},
        )


@dataclass(kw_only=True, slots=True)
class Tally:
    """A running count of the agents that hold a slot: each does until nothing of it exists any more."""

    agents: int = 0
    launching: int = 0
    by_template: Counter[str] = field(default_factory=Counter)
    by_provider: Counter[str] = field(default_factory=Counter)
    launching_by_pair: Counter[tuple[str, str]] = field(default_factory=Counter)  # (provider, template)

    @classmethod
    def of(cls, agents: Iterable[CountedAgent]) -> Tally:
        """Count agents; those that are removed do not count."""
        tally = cls()
        for agent in agents:
            if agent.state is not AgentState.REMOVED:
                tally.add(agent.template, agent.provider, launching=agent.state in LAUNCHING)
        return tally

    def add(self, template: str, provider: str, *, launching: bool) -> None:
        """Count one agent more."""
        self.agents += 1
        self.launching += launching
        self.by_template[template] += 1
        self.by_provider[provider] += 1
        self.launching_by_pair[(provider, template)] += launching

    def drop(self, template: str, provider: str) -> None:
        """Count one agent less, which was online."""
        self.agents -= 1
        self.by_template[template] -= 1
        self.by_provider[provider] -= 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Where one agent more of a template may go, or what keeps it from going anywhere."""

    provider: str | None
    reasons: tuple[str, ...] = ()  # a sentence each; none where there is a provider


def room_for(template: str, plant: Plant, tally: Tally, failed_at: Sequence[str] = ()) -> Room:
    """Look for room for one agent more of the template.

    Args:
        template: its name.
        plant: what may be used.
        tally: what is used.
        failed_at: providers at which a launch for the same request failed, latest last; they are asked last.
    """
    caps = plant.templates.get(template)
    if caps is None:
        return Room(provider=None, reasons=(f"template {template} is no longer configured",))
    blocked = tuple(_shared(caps, plant, tally))
    closed = []
    for provider in sorted(caps.providers, key=lambda name: failed_at.index(name) if name in failed_at else -1):
        reason = _closed(provider, template, plant, tally)
        if reason is None:
            # where a cap above it is reached, providers without room do not matter: this one has some
            return Room(provider=None, reasons=blocked) if blocked else Room(provider=provider)
        closed.append(reason)
    return Room(provider=None, reasons=(*blocked, *(closed or [f"template {template} has no provider"])))


def _shared(caps: TemplateCaps, plant: Plant, tally: Tally) -> Iterator[str]:
    have, limits = tally.by_template[caps.name], plant.limits
    if caps.max_agents is not None and have >= caps.max_agents:
        yield f"template {caps.name} is at its maximum ({have} of {caps.max_agents} agents)"
    if limits.agents is not None and tally.agents >= limits.agents:
        yield f"limits.agents reached ({tally.agents} of {limits.agents})"
    if limits.launching is not None and tally.launching >= limits.launching:
        yield f"limits.launching reached ({tally.launching} of {limits.launching})"


def _closed(name: str, template: str, plant: Plant, tally: Tally) -> str | None:
    """Why the provider takes no agent of the template now."""
    provider = plant.providers.get(name)
    if provider is None:
        return f"provider {name} is not configured"
    condition = plant.conditions.get(name, _OPEN)
    if condition.state is not ProviderState.OPEN:
        return f"provider {name} is {condition}"
    condition = plant.pair_conditions.get((name, template), _OPEN)
    probed = condition.state is ProviderState.PROBING and tally.launching_by_pair[(name, template)] == 0
    if condition.state is not ProviderState.OPEN and not probed:
        return f"provider {name} is, for template {template}, {condition}"
    have = tally.by_provider[name]
    if provider.max_agents is not None and have >= provider.max_agents:
        return f"provider {name} is full ({have} of {provider.max_agents} agents)"
    return None
