"""The pool for blocking calls makes no more threads than it needs, and none more than it may."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from provisioner.controller.threads import DaemonPool


@pytest.fixture
def pool() -> Iterator[DaemonPool]:
    made = DaemonPool(4, "test-pool")
    yield made
    made.shutdown()


async def test_one_call_after_the_other_needs_one_thread(pool: DaemonPool) -> None:
    names = {await pool.run(lambda: threading.current_thread().name) for _ in range(500)}
    assert names == {"test-pool-1"}


async def test_calls_at_once_get_a_thread_each_up_to_its_size(pool: DaemonPool) -> None:
    together = threading.Barrier(4, timeout=10)
    names = set(await asyncio.gather(*(pool.run(_meet, together) for _ in range(4))))
    assert len(names) == 4
    more = set(await asyncio.gather(*(pool.run(lambda: threading.current_thread().name) for _ in range(50))))
    assert more <= names


async def test_a_call_that_fails_or_was_cancelled_takes_no_thread_with_it(pool: DaemonPool) -> None:
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)
    held = threading.Event()
    first = asyncio.ensure_future(pool.run(held.wait, 10))
    await asyncio.sleep(0.05)
    queued = [pool.submit(lambda: 1) for _ in range(3)]
    cancelled = [future.cancel() for future in queued]
    held.set()
    assert await first
    assert [await pool.run(lambda: 2) for _ in range(5)] == [2] * 5
    assert len(cancelled) == 3


def _meet(barrier: threading.Barrier) -> str:
    barrier.wait()
    return threading.current_thread().name
