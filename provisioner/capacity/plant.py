"""What exists and what may exist: the caps, the state of every provider, the agents that hold a slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    reason: str = ""  # why, where it said so itself
    until: str = ""  # when it is tried again, where that is known

    def words(self) -> str:
        """What it said and what follows; empty where it said nothing."""
        until = f" until {self.until}" if self.until else ""
        most = f"it gets at most {self.max_agents} agent{'s' * (self.max_agents != 1)}{until}"
        return f"{self.reason}; {most}" if self.reason else ""


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
