"""A process that dies before or after any change that it makes: whoever looks next brings the loan to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from provisioner.config import Settings
from provisioner.controller.rest import Answer, Rest
from provisioner.loans import causes
from provisioner.loans.book import LoanBook
from provisioner.loans.lending import Lending, Wish
from provisioner.loans.machine import Machine
from tests.standin.loan_estate import NODE, Estate
from tests.standin_process import eventually

WISH = Wish(node=NODE, to="other", labels=("gpu",))


class Dead(BaseException):
    """The process is gone; nothing that it had in hand is finished."""


class Mortal:
    """Counts what changes anything outside, and dies at one of them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.dies_at = 0  # counted from 1; 0: never
        self.before = True

    def act(self, what: str, work: Callable[[], Any]) -> Any:
        self.done.append(what)
        if len(self.done) == self.dies_at and self.before:
            raise Dead
        made = work()
        if len(self.done) == self.dies_at:
            raise Dead
        return made

    def revive(self) -> None:
        self.done, self.dies_at = [], 0


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mortal]:
    made = Mortal()
    call, start, stop = Rest.call, Machine.start, Machine.stop

    def calling(self: Rest, method: str, path: str, **options: Any) -> Answer:
        if method == "GET":
            return call(self, method, path, **options)
        found: Answer = made.act(f"{path} at {self.name}", lambda: call(self, method, path, **options))
        return found

    monkeypatch.setattr(Rest, "call", calling)
    monkeypatch.setattr(Machine, "start", lambda self, **given: made.act("start", lambda: start(self, **given)))
    monkeypatch.setattr(Machine, "stop", lambda self: made.act("stop", lambda: stop(self)))
    monkeypatch.setattr(causes, "_SETTLE_S", 0.0)
    yield made
    made.revive()


def _book(estate: Estate) -> LoanBook:
    return LoanBook(Settings.model_validate(estate.settings))


def _lending(estate: Estate, book: LoanBook) -> Lending:
    return Lending(Settings.model_validate(estate.settings), book, lambda _line: None)


def _states(book: LoanBook) -> list[str]:
    return [str(row.state) for row in book.settle()]


def _lend(estate: Estate, mortal: Mortal) -> None:
    """Whole, whatever was there before."""
    mortal.revive()
    book = _book(estate)
    try:
        # whoever looks next goes on with what was begun
        eventually(lambda: _states(book) in ([], ["lent"]), "it is lent, or nothing was begun", within_s=60)
        if not estate.guests():
            _lending(estate, book).lend(WISH)
        (name,) = estate.guests()
        assert estate.guest(name)["offline"] is False
        assert len(estate.processes(name)) == 1
        assert estate.home()["temporarilyOffline"] is True
        assert [p.name for p in estate.loans_folder.iterdir()] == [name]
    finally:
        book.close()


def _take_back(estate: Estate, mortal: Mortal) -> None:
    mortal.revive()
    (name,) = estate.guests() or ("",)
    book = _book(estate)
    try:
        eventually(lambda: _states(book) in ([], ["lent"]), "it is back, or nothing was begun", within_s=60)
        if estate.guests():
            assert _lending(estate, book).take_back(NODE)
        assert book.rows(book.look()) == ()
    finally:
        book.close()
    if name:
        estate.nothing_left(name)
    assert estate.guests() == []
    assert not estate.loans_folder.exists()
    assert estate.home()["temporarilyOffline"] is False
    assert {"dirty", "clean"} & estate.home_labels()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_death_before_or_after_any_change_loses_and_leaves_nothing(estate: Estate, mortal: Mortal) -> None:
    _lend(estate, mortal)
    lending = _counted(mortal)
    _take_back(estate, mortal)
    returning = _counted(mortal)
    assert len(lending) >= 4
    assert len(returning) >= 5
    for before in (True, False):
        # what is dirty already is not made dirty again: one change less
        for at in range(1, max(len(lending), len(returning)) + 1):
            assert _die(estate, mortal, at, before, lambda lending: lending.lend(WISH)) or at >= len(lending)
            _lend(estate, mortal)
            assert _die(estate, mortal, at, before, lambda lending: lending.take_back(NODE)) or at >= len(returning)
            _take_back(estate, mortal)


def _counted(mortal: Mortal) -> list[str]:
    return list(mortal.done)


def _die(estate: Estate, mortal: Mortal, at: int, before: bool, work: Callable[[Lending], object]) -> bool:
    """Whether it died."""
    mortal.revive()
    mortal.dies_at, mortal.before = at, before
    book = _book(estate)
    try:
        work(_lending(estate, book))
    except Dead:
        return True
    finally:
        book.close()
    return False
