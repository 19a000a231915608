"""A loan from its beginning to its end, as a person asks for it: checked, begun, followed, undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.config import Settings
from provisioner.loans.book import LoanBook, Look, Row
from provisioner.loans.marks import LoanMark, Word, new_name, words
from provisioner.loans.places import PlaceNode
from provisioner.loans.state import Act, LoanFacts, LoanState
from provisioner.model.errors import ProvisionerError
from provisioner.static.stored import MARK as RESERVED

_POLL_S = 1.0
#: An agent that was started needs this long to connect, or it is looked at again.
_CONNECT_TRY_S = 15.0
#: So often a step may fail in a row before the loan is undone.
_FAILURES = 3
_GOING = frozenset({Word.LENDING, Word.LENT})

Tell = Callable[[str], None]


class LoanError(ProvisionerError):
    """A loan that is refused, or did not come about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a person asks for."""

    node: str
    to: str
    lender: str | None = None  # None: the only other controller that has the node
    labels: tuple[str, ...] | None = None  # None: those that it has at the lender
    lease_s: float | None = None  # None: as configured
    by: str = ""
    why: str = ""


class Lending:
    """One person's loans.

    Args:
        settings: the configuration.
        book: the loans.
        tell: is told what happens, a line each.
        monotonic: a clock.
        sleep: waits.
    """

    def __init__(
        self,
        settings: Settings,
        book: LoanBook,
        tell: Tell,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._book = book
        self._tell = tell
        self._monotonic = monotonic
        self._sleep = sleep

    # -- there

    def lend(self, wish: Wish, *, wait_s: float | None = None) -> Row:
        """Lend a node; the end of it is that the borrower's agent is connected.

        Args:
            wish: what is asked for.
            wait_s: longest wait for the node's own builds; None: as long as they take; 0: refuse if there are any.

        Raises:
            LoanError: it is refused, or it did not come about and was undone.
        """
        name = self._begin(wish, refuse_busy=wait_s == 0)
        return self._follow_out(name, wish, wait_s)

    def _begin(self, wish: Wish, *, refuse_busy: bool) -> str:
        """The loan's name."""
        look = self._book.look()
        lender, node = self._find(look, wish.node, wish.lender, besides=wish.to)
        if wish.to not in look.views:
            known = ", ".join(self._book.places)
            raise LoanError(f"there is no controller {wish.to} in the configuration; there are {known}")
        if look.views[wish.to].problem:
            raise LoanError(f"nothing can be lent to {wish.to}: {look.views[wish.to].problem}")
        now_s = self._book.now_s(look, lender)
        lease_s = self._settings.loans.lease_s if wish.lease_s is None else wish.lease_s
        until_s = round(now_s + lease_s)
        if node.loan is not None:
            return self._resume(look, node, node.loan, wish, until_s)
        self._refuse(lender, node, refuse_busy=refuse_busy)
        mark = LoanMark(
            name=new_name(node.name),
            owner=self._settings.id,
            to=wish.to,
            until_s=until_s,
            word=Word.LENDING,
            labels=self._labels(lender, node) if wish.labels is None else wish.labels,
            root=self._root(lender, node),
            executors=node.executors,
            by=words(wish.by),
            why=words(wish.why),
        )
        try:
            self._book.machine(lender, node.name, name=mark.name, root=mark.root).check()
        except ProvisionerError as error:
            raise LoanError(f"{node.name} cannot be lent: {error.message}") from error
        causes = self._book.places[lender].causes
        if not causes.set(node.name, None, str(mark)):
            raise LoanError(f"{node.name} was taken offline by somebody else at the same time; nothing is lent")
        if refuse_busy:
            again = self._book.look().views[lender].nodes.get(node.name)
            if again is not None and again.builds:
                causes.set(node.name, str(mark), None)
                raise LoanError(f"{node.name} has just begun to run {again.builds[0]}; nothing is lent")
        return mark.name

    def _find(self, look: Look, node: str, lender: str | None, *, besides: str | None) -> tuple[str, PlaceNode]:
        if lender is not None and lender not in look.views:
            raise LoanError(f"there is no controller {lender} in the configuration")
        asked = [lender] if lender else [name for name in look.views if name != besides]
        having = [name for name in asked if node in look.views[name].nodes]
        unknown = [name for name in asked if look.views[name].problem]
        itself = besides is not None and besides in look.views and node in look.views[besides].nodes
        if itself and (lender == besides or not having):
            raise LoanError(f"{node} is a node of {besides} itself; name another controller behind --to")
        if not having and unknown:
            raise LoanError(
                f"whether {node} is a node of {' or '.join(unknown)} cannot be told, and nothing is lent: "
                f"{look.views[unknown[0]].problem}"
            )
        if not having:
            raise LoanError(f"no node {node} is at {' or '.join(asked) or 'any other controller'}")
        if len(having) > 1:
            raise LoanError(f"there is a node {node} at {' and '.join(having)}; say which with --from")
        return having[0], look.views[having[0]].nodes[node]

    def _resume(self, look: Look, node: PlaceNode, mark: LoanMark, wish: Wish, until_s: int) -> str:
        """A loan that is under way already goes on; its lease is made anew if one was asked for."""
        if mark.owner != self._settings.id:
            raise LoanError(f"{node.name} is lent to {mark.to} by the provisioner {mark.owner}; nothing was changed")
        if mark.to != wish.to or mark.word not in _GOING:
            what = f"is lent to {mark.to}" if mark.word in _GOING else f"is on its way back from {mark.to}"
            raise LoanError(f"{node.name} {what}; `provisioner loan {node.name} --return` brings it back first")
        if wish.lease_s is not None and not self._book.remark(look.loans[mark.name], until_s=until_s):
            raise LoanError(f"the loan of {node.name} was changed by somebody else at the same time; look again")
        return mark.name

    def _refuse(self, lender: str, node: PlaceNode, *, refuse_busy: bool) -> None:
        """Say why a node cannot be lent, if it cannot."""
        over_ssh = any((m.controller, m.node) == (lender, node.name) for m in self._settings.loans.machines)
        if node.built_in:
            raise LoanError(f"{node.name} is the controller itself; only other nodes can be lent")
        if node.one_shot:
            raise LoanError(f"{node.name} is the agent of one build; only static nodes can be lent")
        if node.guest is not None:
            raise LoanError(f"{node.name} is itself lent by {node.guest.lender}; it cannot be lent on")
        if any(label.startswith(RESERVED) for label in node.labels) and not node.builds:
            raise LoanError(f"{node.name} is reserved for a build that is about to begin; try again when it has")
        if node.held:
            raise LoanError(f"{node.name} was taken offline by somebody ({node.cause or 'no reason given'})")
        if not node.connected:
            raise LoanError(f"{node.name} is not connected at {lender}; there is nothing to lend")
        if not over_ssh and not self._book.places[lender].script:
            raise LoanError(
                f"nothing can be started on the machine of {node.name}: add it to `loans.machines`, or set `bridge:"
                f" auto` for {lender} and give its account Administer"
            )
        if node.builds and refuse_busy:
            raise LoanError(f"{node.name} runs {node.builds[0]}; nothing is lent")

    def _labels(self, lender: str, node: PlaceNode) -> tuple[str, ...]:
        cleanup = self._settings.cleanup
        if cleanup is None or cleanup.controller != lender:
            return node.labels
        # what it has while it is reserved is another's
        labels = tuple(label for label in node.labels if not label.startswith(RESERVED))
        own = {cleanup.labels.cleanable, cleanup.labels.dirty, cleanup.labels.clean}
        return tuple(label for label in labels if label not in own)

    def _root(self, lender: str, node: PlaceNode) -> str:
        folder = self._settings.loans.folder
        if folder.startswith("/"):
            return folder.rstrip("/")
        if not node.root:
            raise LoanError(
                f"the root folder of {node.name} is not told; give the account at {lender} Agent/Configure, or set"
                " `loans.folder` to an absolute path"
            )
        return f"{node.root.rstrip('/')}/{folder}"

    def _follow_out(self, name: str, wish: Wish, wait_s: float | None) -> Row:
        began_s = self._monotonic()
        connect_by_s: float | None = None
        failures = 0
        said = ""
        while True:
            rows = self._book.settle(name, self._told)
            if not rows or rows[0].state is LoanState.RETURNING:
                raise LoanError(f"the loan of {wish.node} was ended by somebody else before it had begun")
            row = rows[0]
            if row.state is LoanState.LENT and row.act is Act.WAIT:
                return row
            failures = failures + 1 if row.failed else 0
            problem = row.outcome if failures >= _FAILURES else ""
            if row.act is Act.START:
                connect_by_s = connect_by_s or self._monotonic() + self._settings.loans.connect_s
                if not row.failed:
                    self._until_connected(name)
            if connect_by_s is not None and self._monotonic() > connect_by_s:
                problem = problem or f"its agent did not connect to {wish.to}: {row.outcome or row.reason}"
            elif connect_by_s is None and wait_s is not None and self._monotonic() - began_s > wait_s:
                problem = problem or row.reason
            if problem:
                self._undo(name, problem)
                raise LoanError(f"{wish.node} could not be lent: {problem}; what was begun is undone")
            if row.act is Act.WAIT and row.reason != said:
                self._tell(f"{wish.node}: waits: {row.reason}")
                said = row.reason
            self._sleep(_POLL_S)

    def _until_connected(self, name: str) -> None:
        until_s = self._monotonic() + _CONNECT_TRY_S
        while self._monotonic() < until_s:
            facts = self._book.look().loans.get(name)
            if facts is None or facts.guest is None or facts.guest.connected:
                return
            self._sleep(_POLL_S)

    def _undo(self, name: str, why: str) -> None:
        look = self._book.look()
        facts = look.loans.get(name)
        if facts is not None and facts.mark is not None:
            now_s = round(self._book.now_s(look, facts.lender))
            self._book.end(facts, now_s, words(why), now=facts.guest is None or not facts.guest.builds)
            self._book.settle(name, self._told)

    # -- back

    def take_back(
        self, node: str, lender: str | None = None, *, now: bool = False, wait_s: float | None = None, why: str = ""
    ) -> str | None:
        """End a loan and undo all of it.

        Args:
            node: name of the node at the lender.
            lender: which controller that is, if several lend a node of that name.
            now: end the borrower's builds instead of waiting for them.
            wait_s: longest wait; None: until it is back; 0: refuse if the borrower's builds run, wait for nothing.
            why: for people.

        Returns:
            The controller that has it back; None: it is on its way.

        Raises:
            LoanError: it is not lent, or refused.
        """
        look = self._book.look()
        facts = self._lent(look, node, lender)
        if wait_s == 0 and not now and facts.guest is not None and facts.guest.builds:
            raise LoanError(f"{facts.guest.builds[0]} runs on it at {facts.to}; nothing was changed")
        if facts.mark is not None:
            now_s = round(self._book.now_s(look, facts.lender))
            if not self._book.end(facts, now_s, words(why) or "taken back", now=now):
                raise LoanError(f"the loan of {node} was changed by somebody else at the same time; look again")
        return facts.lender if self._follow_back(facts.name, node, wait_s) else None

    def _lent(self, look: Look, node: str, lender: str | None) -> LoanFacts:
        found = [f for f in look.loans.values() if f.node == node and lender in {None, f.lender} and f.owned]
        if not found:
            foreign = [f for f in look.loans.values() if f.node == node]
            problems = [view.problem for view in look.views.values() if view.problem]
            if problems and not foreign:
                raise LoanError(f"whether {node} is lent cannot be told: {problems[0]}")
            raise LoanError(f"{node} is not lent{' by this provisioner' if foreign else ''}")
        if len({f.lender for f in found}) > 1:
            raise LoanError(f"a node {node} is lent by {' and '.join(f.lender for f in found)}; say which with --from")
        return found[0]

    def _follow_back(self, name: str, node: str, wait_s: float | None) -> bool:
        began_s = self._monotonic()
        said = ""
        while True:
            rows = self._book.settle(name, self._told)
            if not rows:
                return True
            row = rows[0]
            reason = row.outcome or row.reason
            if reason != said and (row.failed or row.act is Act.WAIT):
                self._tell(f"{node}: waits: {reason}")
                said = reason
            if wait_s is not None and self._monotonic() - began_s >= wait_s:
                return False
            self._sleep(_POLL_S)

    def _told(self, row: Row) -> None:
        self._tell(f"{row.node}: {row.act}: {row.reason}: {row.outcome}")
