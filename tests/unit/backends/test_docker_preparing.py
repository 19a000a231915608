"""What is prepared in the background: nobody waits for it, and nobody uses it before it is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from provisioner.backends.docker import preparing
from provisioner.backends.docker.engine import RefusedError
from provisioner.backends.docker.preparing import Preparing


@pytest.fixture
def thread() -> Iterator[Preparing]:
    made = Preparing()
    yield made
    made.close()


def test_what_is_not_there_is_made_once_and_used_from_then_on(thread: Preparing) -> None:
    go, made = threading.Event(), []

    def make() -> bool:
        go.wait(10)
        made.append(1)
        return True

    assert not any(thread.there("x", make) for _ in range(5))
    go.set()
    thread.settle()
    assert thread.there("x", make)
    thread.settle()
    assert made == [1]


def test_a_failure_is_not_tried_again_with_every_start(thread: Preparing, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def make() -> bool:
        tried.append(1)
        raise RefusedError(500, "no space left")

    for _ in range(3):
        assert not thread.there("x", make)
        thread.settle()
    assert tried == [1]
    monkeypatch.setattr(preparing, "_AGAIN_S", -1.0)
    thread.forget("x")
    for _ in range(3):
        assert not thread.there("x", make)
        thread.settle()
    assert len(tried) == 4


def test_it_is_looked_at_again_after_a_while_and_used_meanwhile(
    thread: Preparing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "_TRUST_S", -1.0)
    still_there = True
    thread.there("x", lambda: still_there)
    thread.settle()
    assert thread.there("x", lambda: still_there)
    still_there = False
    thread.settle()
    thread.there("x", lambda: still_there)
    thread.settle()
    assert not thread.there("x", lambda: still_there)


def test_nothing_is_made_after_the_end(thread: Preparing) -> None:
    thread.close()
    assert not thread.there("x", lambda: True)
