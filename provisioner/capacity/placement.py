"""Which waiting requests get an agent now, and where; every other one is told what it waits for.

The rules:

- Only the winning template of a request serves it. Where that one has no room the request waits,
  even if a template of lower priority has: the choice of template never depends on the load.
- A template's providers are tried in order; the next one takes the overflow. Those at which a launch for
  the same request failed come last.
- No cap is ever exceeded: per provider, per template, `limits.agents`, `limits.launching`. An agent counts
  until it is gone, and one that is placed here counts at once.
- Within a template, in the order of the queue.
- Between templates the one with the fewest agents is next; of equals the one that was served longest ago
  (`last_turns`, the caller's memory), then the one whose request stands first in the queue. So a busy label
  never starves another: a slot that both could use goes to the one that has less, and else they take turns.
- A request waits only if no provider of its template has room: a template that is full holds up no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from provisioner.capacity.room import CountedAgent, Plant, Tally, room_for
from provisioner.model.queue import RequestKey
from provisioner.routing.match import Decline, Routing


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One item of the queue with what routing says about it."""

    key: RequestKey
    routing: Routing
    failed_at: tuple[str, ...] = ()  # providers at which a launch for it failed, latest last: others go first


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
    template: str
    reasons: tuple[str, ...]


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
) -> tuple[Decision, ...]:
    """Decide about every item, in the order of the queue.

    Args:
        asked: the queue, oldest first.
        plant: templates, providers and limits, with the state of each provider.
        agents: every agent that is not gone, standby and dying ones too, of all controllers.
        served: requests that have an agent already; nothing is decided about them.
        last_turns: by template, the number of its latest placement, counted by the caller over all its calls
            (`counted_turns`); without it, templates that have equally many agents go by the queue alone.

    Returns:
        One decision for each item that is not served, in the order given.
    """
    waiting: dict[str, deque[int]] = {}
    decisions: dict[int, Decision] = {}
    queue = [entry for entry in asked if entry.key not in served]
    for position, entry in enumerate(queue):
        winner = entry.routing.winner
        if winner is None:
            decisions[position] = Declined(key=entry.key, declines=entry.routing.declines)
        else:
            waiting.setdefault(winner.template, deque()).append(position)
    tally = Tally.of(agents)
    blocked = []
    past = last_turns or {}
    latest = max(past.values(), default=0)
    turns = [
        (tally.by_template[template], past.get(template, 0), positions[0], template)
        for template, positions in waiting.items()
    ]
    heapify(turns)
    while turns:
        _, _, position, template = heappop(turns)
        provider = room_for(template, plant, tally, queue[position].failed_at).provider
        if provider is None:
            blocked.append(template)  # for good: slots are only taken here, never given back
            continue
        tally.add(template, provider, launching=True)
        decisions[position] = Place(key=queue[position].key, template=template, provider=provider)
        waiting[template].popleft()
        if waiting[template]:
            latest += 1
            heappush(turns, (tally.by_template[template], latest, waiting[template][0], template))
    for template in blocked:
        reasons = room_for(template, plant, tally).reasons  # as things stand after everything was placed
        for position in waiting[template]:
            decisions[position] = Wait(key=queue[position].key, template=template, reasons=reasons)
    return tuple(decisions[position] for position in range(len(queue)))


def counted_turns(last_turns: Mapping[str, int], decisions: Iterable[Decision]) -> dict[str, int]:
    """The caller's memory after these decisions; to forget it costs one round of fairness."""
    turns = dict(last_turns)
    latest = max(turns.values(), default=0) + 1
    for decision in decisions:
        if isinstance(decision, Place):
            turns[decision.template] = latest
    return turns
