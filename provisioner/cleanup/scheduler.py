"""One pass over the nodes: look, decide, act; and passes in a row.

Everything is read from the controller in each pass, so that any number of schedulers may work at once and each may be
killed at any moment: every act is one request, and what it needs to be understood later is written before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from provisioner.cleanup.console import ScriptHands
from provisioner.cleanup.facts import MARK, Cleaning, NodeFacts, Note, Policy, Word, read_note, with_note
from provisioner.cleanup.job import FRESH_S, CleanupJob
from provisioner.cleanup.nodes import BARRED, TRIES, Guard, Hands, LabelChange, PlainHands, list_nodes
from provisioner.cleanup.state import (
    Act,
    Decision,
    NodeState,
    decide,
    evidence,
    failures,
    is_looked_after,
    is_our_quarantine,
    soiled,
)
from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError

log = structlog.get_logger(__name__)

#: Builds of the cleanup job that are looked at: for each node, and at least.
_BUILDS_EACH, _BUILDS_LEAST = 10, 200
#: `--once` looks again this often while a cleaning is under way, and gives up after so many passes with errors.
FOLLOW_S = 2.0
_ERRORS = 3
#: Nothing makes these undone: a success that was used up is never believed again.
_FINAL = frozenset({Word.SPENT, Word.VOID})
_BAD = frozenset({NodeState.FAILED, NodeState.QUARANTINED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one pass did with one node."""

    node: str
    state: NodeState
    act: Act
    reason: str
    outcome: str = ""  # `done`, `changed meanwhile`, or what went wrong; empty: nothing was to be done
    failed: bool = False  # the act did not work
    soon: bool = False  # it goes on by itself within minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """All that is known, and when it was asked for."""

    nodes: tuple[NodeFacts, ...]
    decisions: dict[str, Decision]
    began_s: float  # monotonic, before the first request

    def node(self, name: str) -> NodeFacts:
        """One node's facts."""
        return next(node for node in self.nodes if node.name == name)


class Scheduler:
    """The dirty/clean scheduler of one controller.

    Args:
        http: the controller.
        job: full name of the cleanup job.
        policy: what the configuration says.
        script: whether the script console may be used.
        monotonic: a clock.
        sleep: waits.
        now_s: wall time, for a controller that does not tell its own.
    """

    def __init__(
        self,
        http: Rest,
        *,
        job: str,
        policy: Policy,
        script: bool,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._job = CleanupJob(http, job)
        self._policy = policy
        self._hands: Hands = ScriptHands(http, job) if script else PlainHands(http)
        self._monotonic = monotonic
        self._sleep = sleep
        self._now_s = now_s

    @property
    def atomic(self) -> bool:
        """Whether changes are made inside the controller."""
        return isinstance(self._hands, ScriptHands)

    # -- seeing

    def look(self, *, guard: bool = False, known_runs: Mapping[str, str] | None = None) -> Look:
        """Read everything and decide.

        Args:
            guard: also bar used nodes in the controller; without it nothing is changed.
            known_runs: builds that have begun on a node, by node, whether they still run or not.
        """
        known_runs = known_runs or {}
        began_s = self._monotonic()
        seen, time_ms = list_nodes(self._http, disk=self._policy.disk_below is not None)
        ours = [n.name for n in seen if not n.built_in and self._policy.cleanable in n.labels]
        job = self._job.read(max(_BUILDS_LEAST, _BUILDS_EACH * len(ours)))
        nodes = []
        for node in seen:
            cleanings = job.builds.get(node.name, ())
            own = {c.url for c in cleanings}
            nodes.append(
                NodeFacts(
                    name=node.name,
                    labels=node.labels,
                    built_in=node.built_in,
                    connected=node.connected,
                    held=node.held,
                    runs=tuple(
                        dict.fromkeys(
                            [*(url for url in node.builds if url not in own), *_one(known_runs.get(node.name))]
                        )
                    ),
                    disk=node.disk,
                    cleanings=tuple(replace(c, on_node=c.url in node.builds) for c in cleanings),
                    queued=tuple(job.queued.get(node.name, ())),
                )
            )
        idle = self._idle_since(ours, self._guard(nodes) if guard else None)
        nodes = [replace(node, idle_since_ms=idle.get(node.name), idle_told=self.atomic) for node in nodes]
        now_ms = time_ms if time_ms is not None else round(self._now_s() * 1000)
        decisions = {d.node: d for d in decide(nodes, now_ms, self._policy)}
        return Look(nodes=tuple(nodes), decisions=decisions, began_s=began_s)

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

    def _idle_since(self, names: Sequence[str], guard: Guard | None) -> dict[str, int]:
        if not names:
            return {}
        try:
            return dict(self._hands.idle_since_ms(names, guard))
        except ControllerError as error:
            if error.code not in {401, 403, 404}:
                raise
            log.info("cleanup.plain", problem=error.message, instead="plain REST; a build between two looks is missed")
            self._hands = PlainHands(self._http)
            return {}

    # -- acting

    def plan(self) -> tuple[Row, ...]:
        """What a pass would do."""
        return tuple(_row(decision) for decision in self.look().decisions.values())

    def one_pass(self, tell: Callable[[Row], None] = lambda _row: None) -> tuple[Row, ...]:
        """Look, and act on every node that needs it.

        Args:
            tell: is told of each node when its turn is over.

        Raises:
            ControllerError: the nodes or the job could not be read; nothing was done.
        """
        look = self.look(guard=True)
        rows = []
        for name, wanted in look.decisions.items():
            decision: Decision | None = wanted
            if wanted.act in {Act.START, Act.RETRY} or (
                wanted.act is not Act.WAIT and self._monotonic() - look.began_s > FRESH_S
            ):
                # two looks in a row must agree: between queue and build there is a moment without either
                look_again = self.look()
                decision = look_again.decisions.get(name)
                look = replace(look, nodes=look_again.nodes, began_s=look_again.began_s)
            if decision is None or decision.act is not wanted.act:
                rows.append(replace(_row(decision or wanted), act=Act.WAIT, outcome="changed meanwhile"))
            elif decision.act is Act.WAIT:
                rows.append(_row(decision))
            else:
                rows.append(self._act(look, decision))
            tell(rows[-1])
        return tuple(rows)

    def once(self, tell: Callable[[Row], None] = lambda _row: None) -> tuple[Row, ...]:
        """Passes until every cleaning that is under way has ended and is settled; the last look at each node.

        Args:
            tell: is told of every act.
        """
        errors = 0
        while True:
            rows = self.one_pass()
            for row in rows:
                if row.act is not Act.WAIT:
                    tell(row)
            errors = errors + 1 if any(row.failed for row in rows) else 0
            moving = any(row.act is not Act.WAIT or row.outcome or row.soon for row in rows)
            if not moving or errors >= _ERRORS:
                return rows
            self._sleep(FOLLOW_S)

    def _act(self, look: Look, decision: Decision) -> Row:
        try:
            done = self._do(look.node(decision.node), decision, look.began_s)
        except ControllerError as error:
            log.warning("cleanup.failed", node=decision.node, act=decision.act.value, problem=error.message)
            return replace(_row(decision), outcome=error.message, failed=True)
        outcome = "done" if done else "changed meanwhile"
        log.info("cleanup.act", node=decision.node, act=decision.act.value, reason=decision.reason, outcome=outcome)
        return replace(_row(decision), outcome=outcome)

    def _do(self, node: NodeFacts, decision: Decision, seen_s: float) -> bool:
        cleaning = decision.cleaning
        if decision.act is Act.MARK_DIRTY:
            return self._make_dirty(node, decision)
        if cleaning is not None and decision.note is not None and not self._describe(cleaning, decision.note):
            return False
        match decision.act:
            case Act.START | Act.RETRY:
                if self._monotonic() - seen_s > FRESH_S:
                    return False  # too slow to be sure that nobody else has asked
                self._job.start(node.name)
            case Act.MARK_CLEAN if cleaning is not None:
                return self._make_clean(node, cleaning)
            case Act.STOP if decision.queue_id is not None:
                self._job.cancel(decision.queue_id)
            case Act.STOP if cleaning is not None:
                self._job.stop(cleaning)
            case Act.QUARANTINE:
                if decision.queue_id is not None:
                    self._job.cancel(decision.queue_id)
                return self._hands.hold(node.name, f"{MARK} quarantine: {decision.reason}"[:500])
        return True

    def _describe(self, cleaning: Cleaning, note: Note) -> bool:
        """Put the note into the build's description; False: what stands there now must not be taken back."""
        for _ in range(TRIES):
            began_s = self._monotonic()
            before = self._job.description(cleaning)
            old = read_note(before)
            if old is not None and old.word in _FINAL and note.word is Word.CLEAN:
                return False
            if self._hands.describe(self._job.name, cleaning.number, before, with_note(before, note)):
                if note.word is not Word.CLEAN or self.atomic or self._monotonic() - began_s <= FRESH_S:
                    return True
                # in this time another scheduler may have used the success up, and this has written over it
                self._describe(cleaning, Note(word=Word.SPENT, text="does not count: it was written too slowly"))
                return False
        return False

    def _make_dirty(self, node: NodeFacts, decision: Decision) -> bool:
        change = self._change(node, add=self._policy.dirty)
        if decision.cleaning is None or decision.note is None:
            return self._hands.relabel(node.name, change)
        try:
            self._describe(decision.cleaning, decision.note)
        except ControllerError as error:
            # whatever is wrong there, no build may come to this node any more
            changed = self._hands.relabel(node.name, change)
            if error.code == 404:  # the build is gone, and with it all reason to believe
                return changed
            raise
        return self._hands.relabel(node.name, change)

    def _make_clean(self, node: NodeFacts, cleaning: Cleaning) -> bool:
        change = self._change(node, add=self._policy.clean)
        if not self._hands.relabel(node.name, change, idle_since_ms=node.idle_since_ms):
            return False
        note = read_note(self._job.description(cleaning))
        if note is not None and note.word is Word.CLEAN:
            return True
        # another scheduler made it clean before us, saw it used and dirty again, and spent this success
        labels = node.labels - {self._policy.dirty} | {self._policy.clean}
        self._hands.relabel(node.name, self._change(replace(node, labels=labels), add=self._policy.dirty))
        return False

    def _change(self, node: NodeFacts, *, add: str) -> LabelChange:
        policy = self._policy
        watched = frozenset({policy.cleanable, policy.dirty, policy.clean})
        return LabelChange(
            add=add,
            remove=policy.clean if add == policy.dirty else policy.dirty,
            watched=watched,
            expected=watched & node.labels,
            guarded=add == policy.clean and policy.after_builds == 1,
        )

    def used(self, name: str, url: str | None) -> Row | None:
        """A build has begun on a clean node: mark it dirty now, or note the use, as the policy says.

        Args:
            name: the node.
            url: of the build, as the controller writes it; None if this is known only from the node itself.

        Raises:
            ControllerError: it could not be read or changed.
        """
        look = self.look(known_runs={name: url} if url is not None else None)
        decision = look.decisions.get(name)
        if decision is None or decision.state is not NodeState.CLEAN or decision.act is Act.WAIT:
            return None
        row = self._act(look, decision)
        if row.failed:
            raise ControllerError(f"node {name} was used and is not marked so: {row.outcome}")
        return row

    def soil(self, name: str, reason: str) -> bool:
        """Have a node cleaned before it is clean again, whatever it is now; False: it is not looked after.

        Raises:
            ControllerError: the change could not be made.
        """
        for _ in range(TRIES):
            node = next((n for n in self.look().nodes if n.name == name), None)
            if node is None or not is_looked_after(node, self._policy) or name in self._policy.skip:
                return False
            if self._make_dirty(node, soiled(node, NodeState.NEW, reason)):
                return True
        raise ControllerError(f"node {name}: its labels were changed by others {TRIES} times in a row", retryable=True)

    # -- for a person

    def recover(self, name: str) -> None:
        """Bring a node back that we took offline, and forgive its failures.

        Raises:
            ControllerError: it is not in quarantine, or not one of ours.
        """
        look = self.look()
        node = next((n for n in look.nodes if n.name == name and is_looked_after(n, self._policy)), None)
        if node is None or not is_our_quarantine(node.held):
            what = "is no node with the label " + self._policy.cleanable if node is None else "is not in quarantine"
            raise ControllerError(f"{name} {what}; nothing was changed", code=404)
        decision = look.decisions[name]
        if failures(node) and decision.cleaning is not None and decision.note is not None:
            self._describe(decision.cleaning, decision.note)
        if not self._hands.release(name, node.held or ""):
            raise ControllerError(f"{name} was changed by somebody else at the same time; look again", code=409)


def _one(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)


def is_bad(row: Row) -> bool:
    """Whether a person should look at it."""
    return row.failed or row.state in _BAD or row.act is Act.QUARANTINE


def _row(decision: Decision) -> Row:
    return Row(node=decision.node, state=decision.state, act=decision.act, reason=decision.reason, soon=decision.soon)
