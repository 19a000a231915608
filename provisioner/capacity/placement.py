"""Which waiting requests get an agent now, and where; every other one is told what it waits for.

The rules:

- Only the winning template of a request serves it. Where that one has no room the request waits,
  even if a template of lower priority has: the choice of template never depends on the load.
- A template's providers are tried in order; the next one takes the overflow. Those at which a launch for
  the same request failed come last.
- No cap is ever exceeded: per provider, template, controller and label, `limits.agents`, `limits.launching`. An
  agent counts until it is gone, and one that is placed here counts at once.
- Within a template, in the order of the queue; a request that is held up by the cap of its controller or of one of
  its labels holds up none that is not.
- Between templates the one with the fewest agents is next; of equals the one that was served longest ago
  (`last_turns`, the caller's memory), then the one whose request stands first in the queue. So a busy label
  never starves another: a slot that both could use goes to the one that has less, and else they take turns.
- Nor does a steady flow of short builds starve the one that has more: a template that waited while others got
  `MOST_PASSED` agents (`passed`, the caller's memory) gets the next one. It is the template that is owed one, not
  each of its requests: a long queue that has waited for hours would else go before everybody.
- A request waits only if no provider of its template has room: a template that is full holds up no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

from provisioner.capacity.plant import CountedAgent, Plant, Tally, Wanted
from provisioner.capacity.room import room_for
from provisioner.model.queue import RequestKey
from provisioner.routing.match import Decline, Match, Routing

#: So many agents of others are started while a template waits; then it is its turn, however many it has.
MOST_PASSED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One item of the queue with what routing says about it."""

    key: RequestKey
    routing: Routing
    failed_at: tuple[str, ...] = ()  # providers at which a launch for it failed, latest last: others go first
    unfit: frozenset[str] = frozenset()  # providers that cannot give what it asks for


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Start an agent for the request."""

    key: RequestKey
    template: str
    provider: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """The request is ours and there is no room now."""

    key: RequestKey
    wanted: Wanted
    reasons: tuple[str, ...]

    @property
    def template(self) -> str:
        """The template that serves it."""
        return self.wanted.template


@dataclass(slots=True)
class _Line:
    """The waiting requests of one template; those in one lane are alike to all caps."""

    lanes: dict[Wanted, deque[int]] = field(default_factory=dict)  # positions in the queue
    heads: list[tuple[int, int, Wanted]] = field(default_factory=list)  # of the lanes that are not blocked, a heap

    def enter(self, wanted: Wanted, position: int) -> None:
        lane = self.lanes.get(wanted)
        if lane is None:
            lane = self.lanes[wanted] = deque()
            heappush(self.heads, (position, len(self.lanes), wanted))
        lane.append(position)

    def served(self) -> None:
        """The first one got its place: the next one of its lane stands in line."""
        _, number, wanted = heappop(self.heads)
        lane = self.lanes[wanted]
        lane.popleft()
        if lane:
            heappush(self.heads, (lane[0], number, wanted))


@dataclass(frozen=True, kw_only=True, slots=True)
class Declined:
    """No template serves the item: none of our business."""

    key: RequestKey
    declines: tuple[Decline, ...]  # of every template, with its reasons


Decision = Place | Wait | Declined


def place(
    asked: Iterable[Asked],
    *,
    plant: Plant,
    agents: Iterable[CountedAgent],
    served: AbstractSet[RequestKey] = frozenset(),
    last_turns: Mapping[str, int] | None = None,
    passed: Mapping[str, int] | None = None,
) -> tuple[Decision, ...]:
    """Decide about every item, in the order of the queue.

    Args:
        asked: the queue, oldest first.
        plant: templates, providers and limits, with the state of each provider.
        agents: every agent that is not gone, standby and dying ones too, of all controllers.
        served: requests that have an agent already; nothing is decided about them.
        last_turns: by template, the number of its latest placement, counted by the caller over all its calls
            (`counted_turns`); without it, templates that have equally many agents go by the queue alone.
        passed: by template, how many agents others got since it began to wait (`counted_passes`).

    Returns:
        One decision for each item that is not served, in the order given.
    """
    lines: dict[str, _Line] = {}
    decisions: dict[int, Decision] = {}
    queue = [entry for entry in asked if entry.key not in served]
    capped = frozenset(plant.limits.labels)
    for position, entry in enumerate(queue):
        if entry.routing.winner is None:
            decisions[position] = Declined(key=entry.key, declines=entry.routing.declines)
        else:
            wanted = replace(wanted_by(entry.routing.winner, entry.key.controller, capped), unfit=entry.unfit)
            lines.setdefault(wanted.template, _Line()).enter(wanted, position)
    tally = Tally.of(agents)
    past = last_turns or {}
    latest = max(past.values(), default=0)
    owed = {name: -count for name, count in (passed or {}).items() if count >= MOST_PASSED}
    turns = [
        (owed.get(name, 0), tally.by_template[name], past.get(name, 0), line.heads[0][0], name)
        for name, line in lines.items()
    ]
    heapify(turns)
    while turns:
        debt, _, turn, position, template = heappop(turns)
        line = lines[template]
        wanted = line.heads[0][2]
        provider = room_for(wanted, plant, tally, queue[position].failed_at).provider
        if provider is None:
            heappop(line.heads)  # blocked for good: slots are only taken here, never given back
        else:
            tally.add(wanted, provider, launching=True)
            decisions[position] = Place(key=queue[position].key, template=template, provider=provider)
            line.served()
            latest += 1
            turn, debt = latest, 0
        if line.heads:
            heappush(turns, (debt, tally.by_template[template], turn, line.heads[0][0], template))
    decisions.update(_waits(lines.values(), queue, plant, tally))
    return tuple(decisions[position] for position in range(len(queue)))


def _waits(lines: Iterable[_Line], queue: list[Asked], plant: Plant, tally: Tally) -> Iterator[tuple[int, Wait]]:
    """What is left, with its reasons as things stand after everything was placed."""
    for line in lines:
        for wanted, lane in line.lanes.items():
            reasons = room_for(wanted, plant, tally).reasons if lane else ()
            for position in lane:
                yield position, Wait(key=queue[position].key, wanted=wanted, reasons=reasons)


def wanted_by(winner: Match, controller: str, capped: AbstractSet[str]) -> Wanted:
    """The agent that a match asks for, as far as the caps care; `capped`: the labels that have a cap."""
    labels = tuple(label for label in winner.labels if label in capped)
    return Wanted(template=winner.template, controller=controller, labels=labels)


def counted_turns(last_turns: Mapping[str, int], decisions: Iterable[Decision]) -> dict[str, int]:
    """The caller's memory after these decisions; to forget it costs one round of fairness."""
    turns = dict(last_turns)
    latest = max(turns.values(), default=0) + 1
    for decision in decisions:
        if isinstance(decision, Place):
            turns[decision.template] = latest
    return turns


def counted_passes(passed: Mapping[str, int], decisions: Iterable[Decision]) -> dict[str, int]:
    """The caller's memory of who was passed over; it begins anew for whoever got an agent or waits for none."""
    made = tuple(decisions)
    placed = [decision.template for decision in made if isinstance(decision, Place)]
    waiting = {decision.template for decision in made if isinstance(decision, Wait)}
    return {name: passed.get(name, 0) + len(placed) for name in waiting.difference(placed)}
