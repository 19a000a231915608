"""The marks of a loan survive what Jenkins and people do to a cause."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.loans.causes import mark_in
from provisioner.loans.marks import MARK, GuestMark, LoanMark, Word, new_name, read_guest, read_loan, words

TEXT = st.text(max_size=60).map(words)
LABELS = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1), max_size=4)
NAME = "loan-n-abcdefghijklm"


@given(
    by=TEXT, why=TEXT, ended=TEXT, labels=LABELS, word=st.sampled_from(Word), absent=st.none() | st.integers(0, 2**40)
)
def test_a_mark_is_read_back_as_it_was_written(
    by: str, why: str, ended: str, labels: list[str], word: Word, absent: int | None
) -> None:
    mark = LoanMark(
        name=NAME,
        owner="prod-a",
        to="other",
        until_s=1795771544,
        word=word,
        labels=tuple(labels),
        root="/home/x y/loans",
        by=by,
        why=why,
        ended=ended,
        since_s=7,
        now=True,
        absent_s=absent,
    )
    assert read_loan(str(mark)) == mark
    # Jenkins shows what stands behind the last blank, colon, blank
    shown = re.sub(r"(?s)^Disconnected by .* : ", "", f"Disconnected by admin : {mark}")
    assert shown == str(mark)
    assert "\n" not in str(mark)


def test_a_guest_is_read_back_as_it_was_written() -> None:
    mark = GuestMark(name=NAME, owner="prod-a", lender="main", node="a b&c", root="/r", until_s=5)
    assert read_guest(str(mark)) == mark


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "Connection was broken",
        "[provisioner] quarantine: 3 cleanings in a row failed",
        f"{MARK} lent to b until x | name={NAME}",
        # it would become a folder that is removed with all that is in it
        f"{MARK} x | name=..%2F..%2Fetc&owner=o&to=b&until=1&state=lent&root=/",
        f"{MARK} x | name=loan-x-short&owner=o&to=b&until=1&state=lent&root=/",
        f"{MARK} x | name={NAME}&owner=o&to=b&until=soon&state=lent&root=/",
        f"{MARK} x | name={NAME}&owner=o&to=b&until=1&state=eaten&root=/",
    ],
)
def test_what_is_no_mark_of_ours_is_none(text: str | None) -> None:
    assert read_loan(text) is None
    assert read_guest(text) is None


@pytest.mark.parametrize("node", ["static-1", "übel", "a b", "x" * 300, "...", "-"])
def test_names_can_be_folders_and_nodes_and_are_never_the_same(node: str) -> None:
    names = {new_name(node) for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"loan-[A-Za-z0-9._-]{1,40}-[a-z2-7]{13}", name) for name in names)


def test_the_cause_that_a_node_keeps_is_found_in_its_configuration() -> None:
    xml = (
        '<?xml version="1.1" encoding="UTF-8"?>\n<slave><temporaryOfflineCause class="x"><description><args>'
        f"<string>admin</string><string> : {MARK} a &amp; b | name=x</string></args></description>"
        "</temporaryOfflineCause><name>n</name></slave>"
    )
    assert mark_in(xml.encode()) == f"{MARK} a & b | name=x"
    assert mark_in(b"<slave><name>n</name></slave>") is None
    assert mark_in(b"<html>no") is None
