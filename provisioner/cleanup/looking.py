"""Everything is read from the controller, and decided upon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from provisioner.cleanup.facts import NodeFacts, Policy
from provisioner.cleanup.hands import ChosenHands
from provisioner.cleanup.job import CleanupJob
from provisioner.cleanup.nodes import BARRED, Guard, is_quieting_down, list_nodes
from provisioner.cleanup.state import Decision, decide, evidence, is_free, is_looked_after, misspelt, running
from provisioner.controller.rest import Rest

#: Builds of the cleanup job that are looked at: for each node, and at least.
_BUILDS_EACH, _BUILDS_LEAST = 10, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """All that is known, and when it was asked for."""

    nodes: tuple[NodeFacts, ...]
    decisions: dict[str, Decision]
    began_s: float  # monotonic, before the first request

    def node(self, name: str) -> NodeFacts:
        """One node's facts."""
        return next(node for node in self.nodes if node.name == name)


class Watch:
    """Sees nodes and job of one controller.

    Args:
        http: the controller.
        job: the cleanup job.
        hands: the way to the nodes.
        policy: what the configuration says.
        monotonic: a clock.
        now_s: wall time, for a controller that does not tell its own.
    """

    def __init__(
        self,
        http: Rest,
        job: CleanupJob,
        hands: ChosenHands,
        policy: Policy,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._job = job
        self._hands = hands
        self._policy = policy
        self._monotonic = monotonic
        self._now_s = now_s
        # all that is remembered between two looks, and lost at no harm; see `_confirmed`
        self._since: dict[tuple[object, ...], float] = {}

    def look(self, *, guard: bool, known_runs: Mapping[str, str]) -> Look:
        """Read everything and decide.

        Args:
            guard: also bar used nodes in the controller; without it nothing is changed.
            known_runs: builds that have begun on a node, by node, whether they still run or not.
        """
        began_s = self._monotonic()
        quieting_down = is_quieting_down(self._http)
        seen, time_ms = list_nodes(self._http, disk=self._policy.disk_below is not None)
        ours = [n.name for n in seen if not n.built_in and self._policy.cleanable in n.labels]
        job = self._job.read(max(_BUILDS_LEAST, _BUILDS_EACH * len(ours)))
        nodes = []
        for node in seen:
            cleanings = job.builds.get(node.name, ())
            own = {c.url for c in cleanings}
            begun = [known_runs[node.name]] if node.name in known_runs else []
            nodes.append(
                NodeFacts(
                    name=node.name,
                    labels=node.labels,
                    built_in=node.built_in,
                    connected=node.connected,
                    held=node.held,
                    runs=tuple(dict.fromkeys([url for url in node.builds if url not in own] + begun)),
                    disk=node.disk,
                    cleanings=tuple(replace(c, on_node=c.url in node.builds) for c in cleanings),
                    queued=tuple(job.queued.get(node.name, ())),
                )
            )
        idle = self._hands.idle_since_ms(ours, self._guard(nodes) if guard else None)
        nodes = [replace(node, idle_since_ms=idle.get(node.name), idle_told=self._hands.atomic) for node in nodes]
        now_ms = time_ms if time_ms is not None else round(self._now_s() * 1000)
        nodes = self._confirmed(nodes, now_ms, quieting_down=quieting_down)
        decided = decide(nodes, now_ms, self._policy, quieting_down=quieting_down)
        all_decisions = (*decided, *misspelt(nodes, self._policy))
        decisions = {decision.node: decision for decision in all_decisions}
        return Look(nodes=tuple(nodes), decisions=decisions, began_s=began_s)

    def _confirmed(self, nodes: Iterable[NodeFacts], now_ms: int, *, quieting_down: bool) -> list[NodeFacts]:
        """With how long it has been so that an item could begin, or that a cleaning should have ended."""
        at_s, before, seen = self._monotonic(), self._since, {}

        def since_s(*what: object) -> float:
            key = (self._http.session, *what)  # anew after a restart of the controller
            seen[key] = before.get(key, at_s)
            return at_s - seen[key]

        def confirmed(node: NodeFacts) -> NodeFacts:
            queued, cleanings = node.queued, node.cleanings
            if is_free(node) and not quieting_down:
                queued = tuple(
                    replace(item, free_s=since_s(node.name, item.queue_id, item.since_ms)) if item.buildable else item
                    for item in queued
                )
            overdue = {c.url for c in running(node) if now_ms - c.started_ms > self._policy.dirty_timeout_s * 1000}
            cleanings = tuple(replace(c, overdue_s=since_s(c.url)) if c.url in overdue else c for c in cleanings)
            return replace(node, queued=queued, cleanings=cleanings)

        made = [confirmed(node) for node in nodes]
        self._since = seen
        return made

    def _guard(self, nodes: Iterable[NodeFacts]) -> Guard:
        """The clean nodes; one whose cleaning no longer counts is barred whatever it does."""
        policy, marks = self._policy, {}
        for node in nodes:
            if policy.clean not in node.labels or not is_looked_after(node, policy):
                continue
            believed = evidence(node)
            if believed is None:
                marks[node.name] = BARRED
            elif believed.note is not None and believed.note.idle_mark_ms:
                marks[node.name] = believed.note.idle_mark_ms
        return Guard(
            cleanable=policy.cleanable,
            clean=policy.clean,
            marking=policy.after_builds == 1,
            marks=marks,
            skipped=policy.skip,
        )
