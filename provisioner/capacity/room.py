"""Whether there is room for one agent more, or what keeps it from going anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from provisioner.capacity.plant import (
    Bounded,
    Condition,
    Plant,
    ProviderCaps,
    ProviderState,
    Tally,
    TemplateCaps,
    Wanted,
)

_OPEN = Condition()


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
            until=f"{_one_of(have)} of template {caps.name} is gone",
        )
    most = plant.controllers.get(wanted.controller)
    here = tally.by_controller[wanted.controller] + tally.by_controller[""]
    if most is not None and here >= most:
        yield Hurdle(
            reason=f"controller {wanted.controller} is at its maximum ({here} of {most} agents)",
            until=f"{_one_of(here)} of controller {wanted.controller} is gone",
        )
    for label in wanted.labels:
        if (cap := limits.labels.get(label)) is not None and (with_it := tally.by_label[label]) >= cap:
            yield Hurdle(
                reason=f"limits.labels reached for {label} ({with_it} of {cap})",
                until=f"{_one_of(with_it)} with the label {label} is gone",
            )
    if limits.agents is not None and tally.agents >= limits.agents:
        yield Hurdle(
            reason=f"limits.agents reached ({tally.agents} of {limits.agents})",
            until=f"{_one_of(tally.agents)} is gone",
        )
    if limits.launching is not None and tally.launching >= limits.launching:
        yield Hurdle(
            reason=f"limits.launching reached ({tally.launching} of {limits.launching})",
            until=f"{_one_of(tally.launching)} on the way is connected",
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
        return _full(provider, have, provider.max_agents)
    return None


def _full(provider: ProviderCaps, have: int, most: int) -> Hurdle:
    """It has as many agents as it takes."""
    reason = f"provider {provider.name} is full ({have} of {most} agents)"
    ways = [f"{_one_of(have)} at {provider.name} is gone"] if have else []
    if isinstance(provider, Bounded) and provider.reason:
        reason = f"{reason}: {provider.reason}"
        if provider.until or not ways:
            ways.append(f"{provider.name} is tried again" + (f" at {provider.until}" if provider.until else ""))
    return Hurdle(reason=reason, until=" or ".join(ways) or f"{provider.name} may have agents")


def _one_of(number: int) -> str:
    """Whose end is waited for; what tells them from others follows."""
    return "the agent" if number == 1 else f"one of the {number} agents"


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
