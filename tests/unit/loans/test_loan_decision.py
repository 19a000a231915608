"""What is done for a loan, in every state of both controllers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.loans.marks import GuestMark, LoanMark, Word
from provisioner.loans.state import Act, Decision, Guest, Home, LoanFacts, LoanPolicy, LoanState, decide
from provisioner.model.errors import IllegalActError

NAME = "loan-n-abcdefghijklm"
POLICY = LoanPolicy(absent_after_s=100, grace_s=50)
MARK = LoanMark(name=NAME, owner="o", to="b", until_s=1000, word=Word.LENDING, labels=(), root="/r")
GUEST_MARK = GuestMark(name=NAME, owner="o", lender="a", node="n", root="/r", until_s=1000)
THERE = Guest(connected=True, held=False)


def facts(word: Word | None = Word.LENDING, guest: Guest | None = None, **changes: object) -> LoanFacts:
    mark = replace(MARK, word=word, since_s=500) if word else None
    base = LoanFacts(
        name=NAME,
        lender="a",
        node="n",
        to="b",
        owned=True,
        mark=mark,
        mark_text=str(mark),
        guest_mark=GUEST_MARK if guest else None,
        lender_told=True,
        borrower_told=True,
        home=Home(connected=True),
        guest=guest,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


ABSENT = replace(MARK, word=Word.LENT, absent_s=400)
BACK = replace(ABSENT, word=Word.RETURNING, since_s=460)


@pytest.mark.parametrize(
    ("case", "now_s", "act"),
    [
        (facts(home=Home(connected=True, builds=("job/x/1",))), 1, Act.WAIT),
        (facts(home=Home(connected=False)), 1, Act.WAIT),
        (facts(), 1, Act.REGISTER),
        (facts(guest=Guest(connected=False, held=False)), 1, Act.START),
        (facts(guest=THERE), 1, Act.SETTLE),
        (facts(guest=THERE), 1000, Act.RETURN),
        (facts(Word.LENT, THERE), 999, Act.WAIT),
        (facts(Word.LENT, THERE), 1000, Act.RETURN),
        (facts(Word.LENT, Guest(connected=False, held=False)), 1, Act.START),
        (facts(Word.LENT, Guest(connected=False, held=False), home=Home(connected=False)), 1, Act.WAIT),
        (facts(Word.LENT, Guest(connected=False, held=False), home=Home(connected=False), over_ssh=True), 1, Act.START),
        (facts(Word.LENT), 1, Act.RETURN),
        (facts(Word.LENT, borrower_told=False), 1, Act.NOTE_ABSENT),
        (facts(Word.LENT, borrower_told=False, mark=ABSENT), 450, Act.WAIT),
        (facts(Word.LENT, borrower_told=False, mark=ABSENT), 501, Act.RETURN),
        (facts(Word.LENT, THERE, mark=ABSENT), 450, Act.NOTE_BACK),
        (facts(Word.RETURNING, THERE), 501, Act.HOLD),
        (facts(Word.RETURNING, Guest(connected=True, held=True, builds=("x",))), 549, Act.WAIT),
        (facts(Word.RETURNING, Guest(connected=True, held=True, builds=("x",))), 551, Act.STOP),
        (facts(Word.RETURNING, Guest(connected=True, held=True)), 501, Act.STOP),
        (facts(Word.RETURNING, Guest(connected=False, held=True), home=Home(connected=False)), 501, Act.REMOVE),
        (facts(Word.RETURNING, home=Home(connected=False)), 501, Act.WAIT),
        (facts(Word.RETURNING), 501, Act.STOP),
        (facts(Word.RETURNING, borrower_told=False), 501, Act.NOTE_ABSENT),
        (facts(Word.RETURNING, borrower_told=False, mark=BACK), 490, Act.WAIT),
        (facts(Word.RETURNING, borrower_told=False, mark=BACK), 511, Act.STOP),
        (facts(Word.STOPPED, Guest(connected=False, held=True)), 501, Act.REMOVE),
        (facts(Word.STOPPED), 501, Act.RELEASE),
        (facts(Word.STOPPED, borrower_told=False), 501, Act.RELEASE),
        (facts(None, THERE), 1, Act.HOLD),
        (facts(None, Guest(connected=True, held=True, builds=("x",))), 1049, Act.WAIT),
        (facts(None, Guest(connected=True, held=True)), 1, Act.STOP),
        (facts(None, Guest(connected=True, held=True), home=None), 1, Act.REMOVE),
        (facts(None, Guest(connected=True, held=True), home=None, over_ssh=True), 1, Act.STOP),
        (facts(None, Guest(connected=False, held=True), home=None, over_ssh=True), 1, Act.STOP),
        (facts(None, Guest(connected=True, held=True), lender_told=False, home=None), 1, Act.WAIT),
        (facts(None, Guest(connected=True, held=True), home=Home(connected=False)), 1, Act.WAIT),
        (facts(Word.RETURNING, THERE, owned=False), 501, Act.WAIT),
    ],
)  # fmt: skip
def test_the_next_step(case: LoanFacts, now_s: float, act: Act) -> None:
    decision = decide(case, now_s, POLICY)
    assert decision.act is act, decision


HOMES = st.none() | st.builds(Home, connected=st.booleans(), builds=st.sampled_from([(), ("x",)]))
GUESTS = st.none() | st.builds(Guest, connected=st.booleans(), held=st.booleans(), builds=st.sampled_from([(), ("x",)]))


@given(
    word=st.none() | st.sampled_from(Word),
    guest=GUESTS,
    home=HOMES,
    over_ssh=st.booleans(),
    lender=st.booleans(),
    borrower=st.booleans(),
    owned=st.booleans(),
    absent_s=st.none() | st.integers(0, 2000),
    now_s=st.integers(0, 3000),
)
def test_whatever_is_seen_nothing_is_taken_from_a_build_in_time_nor_done_on_hearsay(
    word: Word | None,
    guest: Guest | None,
    home: Home | None,
    over_ssh: bool,
    lender: bool,
    borrower: bool,
    owned: bool,
    absent_s: int | None,
    now_s: int,
) -> None:
    case = facts(word, guest, home=home, over_ssh=over_ssh, lender_told=lender, borrower_told=borrower, owned=owned)
    if case.mark is not None:
        case = replace(case, mark=replace(case.mark, absent_s=absent_s))
    decision = decide(case, now_s, POLICY)
    if not owned:
        assert decision.act is Act.WAIT
    if decision.act is Act.REGISTER:
        assert home is not None
        assert not home.builds
        assert borrower
    if decision.act in {Act.STOP, Act.REMOVE} and borrower and guest is not None and word is not Word.STOPPED:
        assert guest.held
        ended_s = 1000 if word is None else 500
        assert not guest.builds or now_s >= ended_s + POLICY.grace_s
    if decision.state is LoanState.FORGOTTEN and decision.act is not Act.WAIT:
        assert lender
    if decision.act is Act.STOP:
        assert over_ssh or (home is not None and home.connected)


def test_what_the_table_forbids_is_a_fault() -> None:
    with pytest.raises(IllegalActError, match="start-agent of loan l, which is returning"):
        Decision(name="l", state=LoanState.RETURNING, act=Act.START, reason="x")
