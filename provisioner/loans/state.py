"""What to do with each loan: a pure function of the facts, the time and the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from provisioner.loans.marks import GuestMark, LoanMark, Word, told_time
from provisioner.model.errors import IllegalActError


class LoanState(StrEnum):
    """Where a loan stands."""

    LENDING = "lending"  # on its way to the borrower
    LENT = "lent"  # serves the borrower
    RETURNING = "returning"  # on its way back
    FORGOTTEN = "forgotten"  # the borrower has a node of ours that the lender knows nothing of
    FOREIGN = "foreign"  # another provisioner's; never touched


class Act(StrEnum):
    """What is done for a loan in one pass."""

    WAIT = "wait"  # nothing
    REGISTER = "register"  # make the borrower's node
    START = "start-agent"  # have the borrower's agent run on the machine
    SETTLE = "mark-lent"
    NOTE_ABSENT = "note-absence"  # the borrower does not answer
    NOTE_BACK = "note-presence"  # it answers again
    RETURN = "end-loan"  # from now on it is on its way back
    HOLD = "hold-at-borrower"  # no new build there
    STOP = "stop-agent"  # end the borrower's agent and remove its files
    REMOVE = "remove-node"  # the borrower's
    RELEASE = "release"  # dirty where nodes are cleaned, and in service again


#: What may be done in which state; `decide` keeps to it.
MOVES: Mapping[LoanState, frozenset[Act]] = {
    LoanState.LENDING: frozenset(
        {Act.WAIT, Act.REGISTER, Act.START, Act.SETTLE, Act.NOTE_ABSENT, Act.NOTE_BACK, Act.RETURN}
    ),
    LoanState.LENT: frozenset({Act.WAIT, Act.START, Act.NOTE_ABSENT, Act.NOTE_BACK, Act.RETURN}),
    LoanState.RETURNING: frozenset({Act.WAIT, Act.NOTE_ABSENT, Act.HOLD, Act.STOP, Act.REMOVE, Act.RELEASE}),
    LoanState.FORGOTTEN: frozenset({Act.WAIT, Act.HOLD, Act.STOP, Act.REMOVE}),
    LoanState.FOREIGN: frozenset({Act.WAIT}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """The node at the lender."""

    connected: bool
    builds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """The node at the borrower."""

    connected: bool
    held: bool  # taken offline, by whomever
    builds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoanFacts:
    """One loan at one moment."""

    name: str
    lender: str
    node: str
    to: str
    owned: bool  # by this provisioner
    mark: LoanMark | None  # at the lender
    mark_text: str  # the same as it is kept there
    guest_mark: GuestMark | None  # at the borrower
    lender_told: bool  # the lender's nodes are known
    borrower_told: bool  # the borrower's nodes are known
    over_ssh: bool = False  # its machine is reached without the lender's node and its agent
    home: Home | None = None
    guest: Guest | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoanPolicy:
    """What the configuration says."""

    absent_after_s: float = 3600.0
    grace_s: float = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One loan's turn, and why."""

    name: str
    state: LoanState
    act: Act
    reason: str

    def __post_init__(self) -> None:
        if self.act not in MOVES[self.state]:
            raise IllegalActError(f"{self.act} of loan {self.name}, which is {self.state}")


def decide(facts: LoanFacts, now_s: float, policy: LoanPolicy) -> Decision:
    """What is to be done next.

    Args:
        facts: what is known.
        now_s: the lender's own time.
        policy: what the configuration says.
    """
    if not facts.owned:
        return Decision(name=facts.name, state=LoanState.FOREIGN, act=Act.WAIT, reason="another provisioner's loan")
    mark = facts.mark
    if mark is None:
        state, (act, reason) = LoanState.FORGOTTEN, _forgotten(facts, now_s, policy)
    elif mark.word in {Word.RETURNING, Word.STOPPED}:
        state, (act, reason) = LoanState.RETURNING, _returning(facts, mark, now_s, policy)
    else:
        state = LoanState.LENT if mark.word is Word.LENT else LoanState.LENDING
        act, reason = _going(facts, mark, now_s, policy)
    return Decision(name=facts.name, state=state, act=act, reason=reason)


def _going(facts: LoanFacts, mark: LoanMark, now_s: float, policy: LoanPolicy) -> tuple[Act, str]:
    """On its way there, or there."""
    if now_s >= mark.until_s:
        return Act.RETURN, f"its lease ended at {told_time(mark.until_s)}"
    if mark.word is Word.LENDING:
        home = facts.home
        if home is None or not home.connected:
            return Act.WAIT, f"{facts.node} is not connected at {facts.lender}"
        if home.builds:
            return Act.WAIT, f"{facts.node} still runs {home.builds[0]}"
    if not facts.borrower_told:
        if mark.absent_s is None:
            return Act.NOTE_ABSENT, f"{facts.to} does not answer"
        absent_s = now_s - mark.absent_s
        if absent_s > policy.absent_after_s:
            return Act.RETURN, f"{facts.to} has not answered for {round(absent_s / 60)} min"
        return Act.WAIT, f"{facts.to} has not answered since {told_time(mark.absent_s)}"
    if mark.absent_s is not None:
        return Act.NOTE_BACK, f"{facts.to} answers again"
    if facts.guest is None:
        if mark.word is Word.LENT:
            return Act.RETURN, f"its node was removed at {facts.to}"
        return Act.REGISTER, f"{facts.to} does not have it yet"
    return _serving(facts, mark, facts.guest)


def _serving(facts: LoanFacts, mark: LoanMark, guest: Guest) -> tuple[Act, str]:
    if guest.connected:
        if mark.word is Word.LENDING:
            return Act.SETTLE, f"its agent is connected at {facts.to}"
        return Act.WAIT, f"serves {facts.to} until {told_time(mark.until_s)}"
    if facts.home is None or not _reached(facts):
        return Act.WAIT, f"its machine is not connected at {facts.lender} either"
    return Act.START, f"its agent is not connected at {facts.to}"


def _returning(facts: LoanFacts, mark: LoanMark, now_s: float, policy: LoanPolicy) -> tuple[Act, str]:
    if mark.word is Word.STOPPED:
        if facts.guest is not None and facts.borrower_told:
            return Act.REMOVE, "its agent is ended"
        # a node that is left at a borrower who does not answer is found there by its own mark
        if facts.home is None or not facts.home.connected:
            return Act.WAIT, f"{facts.node} is not connected at {facts.lender}"
        return Act.RELEASE, "its agent is ended, nothing of it is left"
    over = mark.now or now_s - mark.since_s > policy.grace_s
    if not facts.borrower_told:
        if mark.absent_s is None:
            return Act.NOTE_ABSENT, f"{facts.to} does not answer"
        if not (over or now_s - mark.absent_s > policy.absent_after_s):
            return Act.WAIT, f"{facts.to} does not answer: whether a build runs there is not known"
    elif facts.guest is not None:
        if not facts.guest.held:
            return Act.HOLD, f"{facts.to} is to begin nothing more on it"
        if facts.guest.builds and not over:
            return Act.WAIT, f"{facts.guest.builds[0]} still runs at {facts.to}"
    return _stop(facts)


def _forgotten(facts: LoanFacts, now_s: float, policy: LoanPolicy) -> tuple[Act, str]:
    """The lender's mark is gone: somebody brought the node back there by hand, or its return was cut off."""
    guest, mark = facts.guest, facts.guest_mark
    if not facts.lender_told:
        return Act.WAIT, f"{facts.lender} does not answer: whether it is lent is not known"
    if guest is None or mark is None:
        return Act.WAIT, "it is gone"
    if not guest.held:
        return Act.HOLD, f"{facts.lender} knows of no such loan"
    if guest.builds and now_s < mark.until_s + policy.grace_s:
        return Act.WAIT, f"{guest.builds[0]} still runs at {facts.to}"
    if facts.home is None and not facts.over_ssh:
        return Act.REMOVE, f"{facts.lender} has no node {facts.node} any more"
    return _stop(facts)


def _reached(facts: LoanFacts) -> bool:
    """Whether something can be done on its machine."""
    return facts.over_ssh or (facts.home is not None and facts.home.connected)


def _stop(facts: LoanFacts) -> tuple[Act, str]:
    """End its agent, once its machine can be reached."""
    if _reached(facts):
        return Act.STOP, f"nothing of {facts.to} runs on it any more"
    if facts.mark is not None and facts.guest is not None:
        return Act.REMOVE, f"its machine is not connected at {facts.lender}; {facts.to} is not to wait for it"
    return Act.WAIT, f"its machine is not connected at {facts.lender}; its agent is ended when it is"
