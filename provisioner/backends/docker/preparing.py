"""What is prepared once per engine, in the background: a start before that goes without."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from provisioner.backends.docker.engine import RefusedError
from provisioner.model.errors import LaunchError

#: For so long what was seen is taken as it was.
_TRUST_S = 600.0
#: So long after a failure it is tried again.
_AGAIN_S = 300.0


class Preparing:
    """One thread that prepares things by name. Safe in any thread."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="docker-prepare")
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, bool]] = {}  # until when it is trusted, and whether it is there
        self._under_way: set[str] = set()

    def there(self, name: str, make: Callable[[], bool]) -> bool:
        """Whether it can be used; if not, or if that was seen long ago, it is made in the background.

        Args:
            name: of what is wanted.
            make: makes it or finds it made, and tells whether there is something to use. May raise
                RefusedError or LaunchError: then it is tried again later.
        """
        with self._lock:
            until, there = self._known.get(name, (0.0, False))
            if until < time.monotonic() and name not in self._under_way:
                self._under_way.add(name)
                self.later(lambda: self._make(name, make))
        return there

    def forget(self, name: str) -> None:
        """It may be gone: do not use it until it was looked for again."""
        with self._lock:
            self._known.pop(name, None)

    def later(self, work: Callable[[], None]) -> None:
        """Have something done by the same thread, unless it was closed."""
        with contextlib.suppress(RuntimeError):
            self._threads.submit(work)

    def settle(self) -> None:
        """Wait until nothing is being prepared any more."""
        self._threads.submit(int).result()

    def _make(self, name: str, make: Callable[[], bool]) -> None:
        known = (time.monotonic() + _AGAIN_S, False)
        try:
            there = make()
            known = (time.monotonic() + _TRUST_S, there)
        except (RefusedError, LaunchError):
            pass  # agents start without
        finally:
            with self._lock:
                self._known[name] = known
                self._under_way.discard(name)

    def close(self) -> None:
        """Let go of the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)
