"""One pass over the nodes: look and decide (`looking`), act (`acting`); and passes in a row.

Everything is read from the controller in each pass, so that any number of schedulers may work at once and each may be
killed at any moment: every act is one request, and what it needs to be understood later is written before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from provisioner.cleanup.acting import Acts
from provisioner.cleanup.facts import Policy
from provisioner.cleanup.hands import ChosenHands
from provisioner.cleanup.job import FRESH_S, CleanupJob
from provisioner.cleanup.looking import Look, Watch
from provisioner.cleanup.nodes import TRIES
from provisioner.cleanup.state import (
    Act,
    Decision,
    NodeState,
    failures,
    is_looked_after,
    is_our_quarantine,
    soiled,
)
from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError

log = structlog.get_logger(__name__)

#: `--once` looks again this often while a cleaning is under way, and gives up after so many passes with errors.
FOLLOW_S = 2.0
_ERRORS = 3
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
        cleanup_job = CleanupJob(http, job)
        self._policy = policy
        self._hands = ChosenHands(http, job, script=script)
        self._watch = Watch(http, cleanup_job, self._hands, policy, monotonic=monotonic, now_s=now_s)
        self._acts = Acts(cleanup_job, self._hands, policy, monotonic=monotonic)
        self._monotonic = monotonic
        self._sleep = sleep

    @property
    def atomic(self) -> bool:
        """Whether changes are made inside the controller."""
        return self._hands.atomic

    def look(self, *, guard: bool = False, known_runs: Mapping[str, str] | None = None) -> Look:
        """Read everything and decide.

        Args:
            guard: also bar used nodes in the controller; without it nothing is changed.
            known_runs: builds that have begun on a node, by node, whether they still run or not.
        """
        return self._watch.look(guard=guard, known_runs=known_runs or {})

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
        rows: tuple[Row, ...] = ()
        for rows in self.passes():
            for row in rows:
                if row.act is not Act.WAIT:
                    tell(row)
            errors = errors + 1 if any(row.failed for row in rows) else 0
            moving = any(row.act is not Act.WAIT or row.outcome or row.soon for row in rows)
            if not moving or errors >= _ERRORS:
                break
        return rows

    def passes(self, *, answered: bool = False) -> Iterator[tuple[Row, ...]]:
        """Pass after pass, for whoever waits for what becomes of them.

        Args:
            answered: the controller did so just now; from then on a pause, as after a restart, ends nothing at once.

        Raises:
            ControllerError: it has not answered for some passes in a row, or refuses.
        """
        errors = 0 if answered else _ERRORS - 1
        while True:
            try:
                rows = self.one_pass()
            except ControllerError as error:
                errors += 1
                if not error.retryable or errors >= _ERRORS:
                    raise
                log.warning("cleanup.no_answer", problem=error.message)
            else:
                errors = 0
                yield rows
            self._sleep(FOLLOW_S)

    def _act(self, look: Look, decision: Decision) -> Row:
        try:
            done = self._acts.do(look.node(decision.node), decision, look.began_s)
        except ControllerError as error:
            log.warning("cleanup.failed", node=decision.node, act=decision.act.value, problem=error.message)
            return replace(_row(decision), outcome=error.message, failed=True)
        outcome = "done" if done else "changed meanwhile"
        log.info("cleanup.act", node=decision.node, act=decision.act.value, reason=decision.reason, outcome=outcome)
        return replace(_row(decision), outcome=outcome)

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
            if self._acts.make_dirty(node, soiled(node, NodeState.NEW, reason)):
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
            self._acts.describe(decision.cleaning, decision.note)
        if not self._hands.now.release(name, node.held or ""):
            raise ControllerError(f"{name} was changed by somebody else at the same time; look again", code=409)


def is_bad(row: Row) -> bool:
    """Whether a person should look at it."""
    return row.failed or row.state in _BAD or row.act is Act.QUARANTINE


def _row(decision: Decision) -> Row:
    return Row(node=decision.node, state=decision.state, act=decision.act, reason=decision.reason, soon=decision.soon)
