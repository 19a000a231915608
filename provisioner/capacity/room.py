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

    @property
    def labels(self) -> Mapping[str, int]:
        """By label, most agents whose node carries it."""
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
    def controller(self) -> str:
        """Whose builds it serves; empty where nobody knows: then it counts for every controller."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """What its node carries."""
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
    OCCUPIED = "occupied"  # of static nodes: none is clean and free


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
class Wanted:
    """One agent more, as far as the caps care."""

    template: str
    controller: str = ""  # empty: of no controller in particular
    labels: tuple[str, ...] = ()  # that its node would carry
    unfit: frozenset[str] = frozenset()  # providers of static nodes, which are what they are: it asks for more


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticRoom:
    """What a provider of static nodes has to offer now."""

    free: int  # nodes that are clean and reserved for nobody
    reason: str  # why there are no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounded:
    """A provider whose room is smaller than its configuration says."""

    name: str
    max_agents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plant:
    """All that may be used: one configuration, and the state of its providers at this moment."""

    templates: Mapping[str, TemplateCaps]
    providers: Mapping[str, ProviderCaps]
    limits: LimitCaps
    controllers: Mapping[str, int | None] = field(default_factory=dict)  # most agents for the builds of each
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
        controllers: Mapping[str, int | None] | None = None,
        conditions: Mapping[str, Condition] | None = None,
        pair_conditions: Mapping[tuple[str, str], Condition] | None = None,
    ) -> Self:
        """The same from the configuration's own lists."""
        return cls(
            templates={template.name: template for template in templates},
            providers={provider.name: provider for provider in providers},
            limits=limits,
            controllers=controllers or {},
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
    by_controller: Counter[str] = field(default_factory=Counter)
    by_label: Counter[str] = field(default_factory=Counter)
    launching_by_pair: Counter[tuple[str, str]] = field(default_factory=Counter)  # (provider, template)

    @classmethod
    def of(cls, agents: Iterable[CountedAgent]) -> Tally:
        """Count agents; those that are removed do not count."""
        tally = cls()
        for agent in agents:
            if agent.state is not AgentState.REMOVED:
                tally.add(_as_wanted(agent), agent.provider, launching=agent.state in LAUNCHING)
        return tally

    def add(self, wanted: Wanted, provider: str, *, launching: bool) -> None:
        """Count one agent more."""
        self.agents += 1
        self.launching += launching
        self.by_template[wanted.template] += 1
        self.by_provider[provider] += 1
        self.by_controller[wanted.controller] += 1
        for label in wanted.labels:
            self.by_label[label] += 1
        self.launching_by_pair[(provider, wanted.template)] += launching

    def drop(self, agent: CountedAgent) -> None:
        """Count one agent less, which was online."""
        self.agents -= 1
        self.by_template[agent.template] -= 1
        self.by_provider[agent.provider] -= 1
        self.by_controller[agent.controller] -= 1
        for label in agent.labels:
            self.by_label[label] -= 1

    def put_back(self, agent: CountedAgent) -> None:
        """Take a `drop` back."""
        self.add(_as_wanted(agent), agent.provider, launching=False)


def _as_wanted(agent: CountedAgent) -> Wanted:
    return Wanted(template=agent.template, controller=agent.controller, labels=tuple(agent.labels))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hurdle:
    """What keeps an agent from being started, and what would have to happen."""

    reason: str  # a sentence
    until: str  # goes on after "as soon as"


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Where one agent more of a template may go, or what keeps it from going anywhere."""

    provider: str | None
    above: tuple[Hurdle, ...] = ()  # caps over all providers; each of them must go
    at: tuple[Hurdle, ...] = ()  # of the providers, where none has room; one of them must go

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence each; none where there is a provider."""
        return tuple(hurdle.reason for hurdle in (*self.above, *self.at))

    @property
    def next_step(self) -> str:
        """What is expected to happen next."""
        if self.provider is not None:
            return f"an agent is started at {self.provider}"
        ways = [" and ".join(hurdle.until for hurdle in self.above), " or ".join(hurdle.until for hurdle in self.at)]
        return f"an agent is started as soon as {', and '.join(way for way in ways if way)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderRoom:
    """What one provider says to one agent more."""

    provider: str
    hurdle: Hurdle | None  # None: it has room


def room_for(wanted: Wanted, plant: Plant, tally: Tally, failed_at: Sequence[str] = ()) -> Room:
    """Look for room for one agent more.

    Args:
        wanted: the agent.
        plant: what may be used.
        tally: what is used.
        failed_at: providers at which a launch for the same request failed, latest last; they are asked last.
    """
    caps = plant.templates.get(wanted.template)
    if caps is None:
        gone = f"template {wanted.template} is no longer configured"
        return Room(provider=None, above=(Hurdle(reason=gone, until="the configuration has such a template again"),))
    above = tuple(_above(wanted, caps, plant, tally))
    closed = []
    for one in _each(wanted, caps, plant, tally, failed_at):
        if one.hurdle is None:
            # where a cap above it is reached, providers without room do not matter: this one has some
            return Room(provider=None, above=above) if above else Room(provider=one.provider)
        closed.append(one.hurdle)
    none = Hurdle(reason=f"template {caps.name} has no provider", until="the configuration names one")
    return Room(provider=None, above=above, at=tuple(closed or [none]))


def providers_for(
    wanted: Wanted, plant: Plant, tally: Tally, failed_at: Sequence[str] = ()
) -> tuple[ProviderRoom, ...]:
    """What each provider of the template says, in the order in which they are asked."""
    caps = plant.templates.get(wanted.template)
    return tuple(_each(wanted, caps, plant, tally, failed_at)) if caps is not None else ()


def _each(
    wanted: Wanted, caps: TemplateCaps, plant: Plant, tally: Tally, failed_at: Sequence[str]
) -> Iterator[ProviderRoom]:
    for provider in sorted(caps.providers, key=lambda name: failed_at.index(name) if name in failed_at else -1):
        hurdle = _unfit(provider) if provider in wanted.unfit else _closed(provider, wanted.template, plant, tally)
        yield ProviderRoom(provider=provider, hurdle=hurdle)


def _unfit(name: str) -> Hurdle:
    return Hurdle(
        reason=f"provider {name} has static nodes, which cannot give what the build asks for",
        until=f"the build asks {name} for nothing of its own",
    )


def _above(wanted: Wanted, caps: TemplateCaps, plant: Plant, tally: Tally) -> Iterator[Hurdle]:
    have, limits = tally.by_template[caps.name], plant.limits
    if caps.max_agents is not None and have >= caps.max_agents:
        yield Hurdle(
            reason=f"template {caps.name} is at its maximum ({have} of {caps.max_agents} agents)",
            until=f"one of the {have} agents of template {caps.name} is gone",
        )
    most = plant.controllers.get(wanted.controller)
    here = tally.by_controller[wanted.controller] + tally.by_controller[""]
    if most is not None and here >= most:
        yield Hurdle(
            reason=f"controller {wanted.controller} is at its maximum ({here} of {most} agents)",
            until=f"one of the {here} agents of controller {wanted.controller} is gone",
        )
    for label in wanted.labels:
        if (cap := limits.labels.get(label)) is not None and (with_it := tally.by_label[label]) >= cap:
            yield Hurdle(
                reason=f"limits.labels reached for {label} ({with_it} of {cap})",
                until=f"one of the {with_it} agents with the label {label} is gone",
            )
    if limits.agents is not None and tally.agents >= limits.agents:
        yield Hurdle(
            reason=f"limits.agents reached ({tally.agents} of {limits.agents})",
            until=f"one of all {tally.agents} agents is gone",
        )
    if limits.launching is not None and tally.launching >= limits.launching:
        yield Hurdle(
            reason=f"limits.launching reached ({tally.launching} of {limits.launching})",
            until=f"one of the {tally.launching} agents that are starting is connected",
        )


def _closed(name: str, template: str, plant: Plant, tally: Tally) -> Hurdle | None:
    """Why the provider takes no agent of the template now."""
    provider = plant.providers.get(name)
    if provider is None:
        return Hurdle(reason=f"provider {name} is not configured", until=f"provider {name} is configured")
    condition = plant.conditions.get(name, _OPEN)
    if condition.state is not ProviderState.OPEN:
        return Hurdle(reason=f"provider {name} is {condition}", until=_until(name, condition))
    condition = plant.pair_conditions.get((name, template), _OPEN)
    probed = condition.state is ProviderState.PROBING and tally.launching_by_pair[(name, template)] == 0
    if condition.state is not ProviderState.OPEN and not probed:
        return Hurdle(reason=f"provider {name} is, for template {template}, {condition}", until=_until(name, condition))
    have = tally.by_provider[name]
    if provider.max_agents is not None and have >= provider.max_agents:
        return Hurdle(
            reason=f"provider {name} is full ({have} of {provider.max_agents} agents)",
            until=f"one of the {have} agents at {name} is gone",
        )
    return None


def _until(name: str, condition: Condition) -> str:
    match condition.state:
        case ProviderState.DRAINING:
            return f"somebody says `provisioner resume {name}`"
        case ProviderState.COOLING_DOWN:
            return f"{name} is tried again" + (f" at {condition.until}" if condition.until else "")
        case ProviderState.PROBING:
            return f"the launch that tries {name} has connected"
        case ProviderState.OCCUPIED:
            return f"a node of {name} is clean and free"
        case _:
            return f"{name} answers"
