"""A bounded pool for blocking calls whose threads never keep the process from ending."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonPool(Executor):
    """At most `size` threads, made when needed.

    The standard pool waits for its threads when the interpreter ends: a long poll on a controller that
    hangs would hold up the end of the process for the whole of its time-out. These threads are let go.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `Executor.submit`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the thread pool {self._name} is closed")
            self._work.put((future, partial(fn, *args, **kwargs)))
            if self._idle > 0:
                self._idle -= 1  # spoken for, so that two calls at once do not count on the same thread
            elif self._threads < self._size:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """Take no more calls and let the threads end after the ones that they are in; never waits."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._threads):
                self._work.put(None)

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await a blocking call. Cancelling the await does not stop the call."""
        return await asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                self._rest()
                del future, call, job
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  (it is the caller's, who awaits it)
                self._rest()
                future.set_exception(error)
            else:
                self._rest()
                future.set_result(result)
                del result
            del future, call, job

    def _rest(self) -> None:
        """Count as idle before the result is told: who has waited for it may have the next call at once."""
        with self._lock:
            if self._work.qsize() == 0:
                self._idle += 1
