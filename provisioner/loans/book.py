"""All loans of the configuration's controllers: look, decide, act; and passes in a row.

Nothing is remembered from one pass to the next: the marks in the controllers are all there is, so any number of
commands and sidecars may work at once, and each may be killed at any moment. The lender's mark is written before
anything is made, and is the last that goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from provisioner.cleanup.assembly import make_scheduler
from provisioner.config import Settings
from provisioner.loans.console_way import ConsoleWay
from provisioner.loans.machine import Machine, Way
from provisioner.loans.marks import GuestMark, LoanMark, Word
from provisioner.loans.places import Place, PlaceNode, PlaceView
from provisioner.loans.ssh_way import SshWay
from provisioner.loans.state import Act, Decision, Guest, Home, LoanFacts, LoanPolicy, LoanState, decide
from provisioner.model.errors import ConfigError, ControllerError, ProvisionerError

log = structlog.get_logger(__name__)

#: What was seen may be this old when something is done.
_FRESH_S = 2.0
#: Passes in a row that each do something; a loan has fewer steps from beginning to end.
_PASSES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one pass did for one loan."""

    loan: str  # the borrower's node
    node: str
    lender: str
    to: str
    state: LoanState
    act: Act
    reason: str
    until_s: int | None = None
    outcome: str = ""  # `done`, `changed meanwhile`, or what went wrong; empty: nothing was to be done
    failed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """All that is known, and when it was asked for."""

    views: Mapping[str, PlaceView]
    loans: Mapping[str, LoanFacts]  # by name
    began_s: float  # monotonic

    def now_s(self, controller: str) -> float | None:
        """That controller's own time."""
        view = self.views.get(controller)
        return view.now_s if view is not None else None

    @property
    def unknown(self) -> Mapping[str, str]:
        """Controllers whose nodes are not known, and why: what is not seen there may be lent all the same."""
        return {name: view.problem for name, view in self.views.items() if view.problem}


class LoanBook:
    """Every loan between the controllers of a configuration.

    Args:
        settings: the configuration.
        monotonic: a clock.
        wall_s: wall time, for a controller that does not tell its own.

    Raises:
        ConfigError: a token is missing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._owner = settings.id
        self.places = {controller.name: Place(controller) for controller in settings.controllers}
        self._policy = LoanPolicy(absent_after_s=settings.loans.absent_after_s, grace_s=settings.loans.grace_s)
        self._monotonic = monotonic
        self._wall_s = wall_s

    def close(self) -> None:
        """Let go of the connections."""
        for place in self.places.values():
            place.http.close()

    # -- seeing

    def look(self) -> Look:
        """Every loan, from the marks at all controllers.

        Borrowers first: a node that is seen there has had its mark at the lender for longer, so one whose lender
        does not know it afterwards was forgotten, and is not just being made.
        """
        began_s = self._monotonic()
        first = {name: place.look() for name, place in self.places.items()}
        views = first
        lent = {node.guest.node for view in first.values() for node in view.nodes.values() if node.guest is not None}
        if lent:
            views = {name: place.look(lent) for name, place in self.places.items()}
        guests = {
            (node.guest.name, node.guest.lender): (name, node)
            for name, view in first.items()
            for node in view.nodes.values()
            if node.guest is not None and node.guest.name == node.name
        }
        loans: dict[str, LoanFacts] = {}
        for lender, view in views.items():
            for node in view.nodes.values():
                if node.loan is not None:
                    loans[node.loan.name] = self._lent(views, lender, node, node.loan)
        for (loan, lender), (to, node) in guests.items():
            if loan not in loans and loan in views[to].nodes and node.guest is not None:
                loans[loan] = self._forgotten(views, lender, to, views[to].nodes[loan], node.guest)
        return Look(views=views, loans=dict(sorted(loans.items())), began_s=began_s)

    def _lent(self, views: Mapping[str, PlaceView], lender: str, node: PlaceNode, mark: LoanMark) -> LoanFacts:
        there = views.get(mark.to)
        guest = there.nodes.get(mark.name) if there is not None else None
        return LoanFacts(
            name=mark.name,
            lender=lender,
            node=node.name,
            to=mark.to,
            owned=mark.owner == self._owner,
            mark=mark,
            mark_text=node.loan_text,
            guest_mark=guest.guest if guest is not None else None,
            lender_told=True,
            borrower_told=there is not None and not there.problem,
            over_ssh=self._over_ssh(lender, node.name),
            home=_home(node),
            guest=_guest(guest),
        )

    def _forgotten(
        self, views: Mapping[str, PlaceView], lender: str, to: str, guest: PlaceNode, mark: GuestMark
    ) -> LoanFacts:
        there = views.get(lender)
        home = there.nodes.get(mark.node) if there is not None else None
        return LoanFacts(
            name=mark.name,
            lender=lender,
            node=mark.node,
            to=to,
            owned=mark.owner == self._owner,
            mark=None,
            mark_text="",
            guest_mark=mark,
            lender_told=there is not None and not there.problem,
            borrower_told=True,
            over_ssh=self._over_ssh(lender, mark.node),
            home=_home(home) if home is not None else None,
            guest=_guest(guest),
        )

    def _over_ssh(self, lender: str, node: str) -> bool:
        return any((m.controller, m.node) == (lender, node) for m in self._settings.loans.machines)

    def decisions(self, look: Look) -> dict[str, Decision]:
        """What is to be done next for each loan."""
        return {name: decide(facts, self.now_s(look, facts.lender), self._policy) for name, facts in look.loans.items()}

    def now_s(self, look: Look, controller: str) -> float:
        """Time by that controller's clock, or by ours if it does not tell."""
        told = look.now_s(controller)
        return self._wall_s() if told is None else told

    def rows(self, look: Look) -> tuple[Row, ...]:
        """Every loan, and what would be done next."""
        return tuple(_row(look.loans[name], decision) for name, decision in self.decisions(look).items())

    # -- acting

    def one_pass(self, only: str | None = None, tell: Callable[[Row], None] = lambda _row: None) -> tuple[Row, ...]:
        """Look, and do the next step of every loan that needs one.

        Args:
            only: name of one loan, to do nothing for others.
            tell: is told of every loan when its turn is over.
        """
        look = self.look()
        rows = []
        for name in list(look.loans):
            if only is not None and name != only:
                continue
            if self._monotonic() - look.began_s > _FRESH_S:
                look = self.look()
                if name not in look.loans:
                    continue
            decision = self.decisions(look)[name]
            row = _row(look.loans[name], decision)
            rows.append(row if decision.act is Act.WAIT else self._act(look, look.loans[name], decision, row))
            tell(rows[-1])
        return tuple(rows)

    def settle(self, only: str | None = None, tell: Callable[[Row], None] = lambda _row: None) -> tuple[Row, ...]:
        """Passes until nothing is left that can be done now; the last look at each loan.

        Args:
            only: name of one loan.
            tell: is told of every act.
        """
        rows: tuple[Row, ...] = ()
        for _ in range(_PASSES):
            rows = self.one_pass(only, lambda row: tell(row) if row.act is not Act.WAIT else None)
            if not any(row.outcome == "done" and row.act is not Act.START for row in rows):
                break
        return rows

    def _act(self, look: Look, facts: LoanFacts, decision: Decision, row: Row) -> Row:
        try:
            done = self._do(look, facts, decision)
        except ProvisionerError as error:
            log.warning("loan.failed", loan=facts.name, node=facts.node, act=decision.act.value, problem=error.message)
            return replace(row, outcome=error.message, failed=True)
        outcome = "done" if done else "changed meanwhile"
        log.info("loan.act", loan=facts.name, node=facts.node, act=decision.act.value, reason=decision.reason)
        return replace(row, outcome=outcome)

    def _do(self, look: Look, facts: LoanFacts, decision: Decision) -> bool:
        now_s = round(self.now_s(look, facts.lender))
        match decision.act:
            case Act.REGISTER:
                self._register(facts)
            case Act.START:
                self._start(facts)
            case Act.SETTLE:
                return self.remark(facts, word=Word.LENT)
            case Act.NOTE_ABSENT:
                return self.remark(facts, absent_s=now_s)
            case Act.NOTE_BACK:
                return self.remark(facts, absent_s=None)
            case Act.RETURN:
                return self.end(facts, now_s, decision.reason)
            case Act.HOLD:
                self.places[facts.to].hold(facts.name, f"[provisioner] the loan of {facts.node} is over")
            case Act.STOP:
                self._machine(facts).stop()
                if facts.mark is not None:
                    return self.remark(facts, word=Word.STOPPED)
                self._soil(facts)
                self.places[facts.to].remove(facts.name)
            case Act.REMOVE:
                self.places[facts.to].remove(facts.name)
            case Act.RELEASE:
                self._soil(facts)
                return self.places[facts.lender].causes.set(facts.node, facts.mark_text, None)
        return True

    def _register(self, facts: LoanFacts) -> None:
        mark = _marked(facts)
        # nobody finds it clean any more, whatever becomes of this loan
        self._soil(facts)
        guest = GuestMark(
            name=mark.name,
            owner=self._owner,
            lender=facts.lender,
            node=facts.node,
            root=mark.root,
            until_s=mark.until_s,
        )
        self.places[facts.to].register(guest, mark, f"{mark.root}/{mark.name}/work")

    def _start(self, facts: LoanFacts) -> None:
        borrower = self.places[facts.to]
        said = self._machine(facts).start(
            agent_url=borrower.agent_url, secret=borrower.secret(facts.name), jar=borrower.agent_jar()
        )
        log.info("loan.agent", loan=facts.name, node=facts.node, said=said)

    def _machine(self, facts: LoanFacts) -> Machine:
        mark = facts.mark or facts.guest_mark
        if mark is None:
            raise ControllerError(f"nothing tells where on {facts.node} the loan {facts.name} is", code=404)
        return self.machine(facts.lender, facts.node, name=facts.name, root=mark.root)

    def machine(self, lender: str, node: str, *, name: str, root: str) -> Machine:
        """The machine of a node, for one loan."""
        configured = self._settings.loans.machines
        over_ssh = next((m for m in configured if (m.controller, m.node) == (lender, node)), None)
        way: Way = (
            SshWay(over_ssh) if over_ssh is not None else ConsoleWay(self.places[lender].http, node=node, name=name)
        )
        return Machine(way, root=root, name=name)

    def _soil(self, facts: LoanFacts) -> None:
        """Have it cleaned before it serves jobs that need a clean node."""
        if self._settings.cleanup is not None and self._settings.cleanup.controller == facts.lender:
            make_scheduler(self._settings).soil(facts.node, f"lent to {facts.to}")

    # -- the lender's mark

    def remark(self, facts: LoanFacts, **changes: object) -> bool:
        """Compare and set; False: somebody was quicker."""
        mark = _marked(facts)
        after = replace(mark, **changes)  # type: ignore[arg-type]
        return self.places[facts.lender].causes.set(facts.node, facts.mark_text, str(after))

    def end(self, facts: LoanFacts, now_s: int, why: str, *, now: bool = False) -> bool:
        """From now on it is on its way back."""
        mark = _marked(facts)
        if mark.word in {Word.RETURNING, Word.STOPPED}:
            return mark.now or not now or self.remark(facts, now=True)
        return self.remark(facts, word=Word.RETURNING, ended=why, since_s=now_s, now=now)


def _marked(facts: LoanFacts) -> LoanMark:
    if facts.mark is None:
        raise ControllerError(f"{facts.node} is no longer lent by {facts.lender}", code=409)
    return facts.mark


def _home(node: PlaceNode) -> Home:
    return Home(connected=node.connected, builds=node.builds)


def _guest(node: PlaceNode | None) -> Guest | None:
    if node is None or node.guest is None:
        return None
    return Guest(connected=node.connected, held=node.held, builds=node.builds)


def _row(facts: LoanFacts, decision: Decision) -> Row:
    until_s = facts.mark.until_s if facts.mark else facts.guest_mark.until_s if facts.guest_mark else None
    return Row(
        loan=facts.name,
        node=facts.node,
        lender=facts.lender,
        to=facts.to,
        state=decision.state,
        act=decision.act,
        reason=decision.reason,
        until_s=until_s,
    )


def failed(rows: Sequence[Row]) -> bool:
    """Whether a person should look."""
    return any(row.failed for row in rows)


def two_controllers(settings: Settings) -> None:
    """Refuse a configuration in which nothing can be lent.

    Raises:
        ConfigError: it has one controller.
    """
    if len(settings.controllers) < 2:
        raise ConfigError("a loan needs two controllers under `controllers:`, and the configuration has one")
