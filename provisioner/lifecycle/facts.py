"""What the world has shown of one agent since this process runs; rediscovered after a restart, never stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from provisioner.lifecycle.clock import Clock


@dataclass(slots=True, kw_only=True)
class Facts:
    """Written by the observers of controllers and providers, read by the agent's reconciler."""

    online: bool = False
    started: bool = False  # its executor took its build
    finished: bool = False  # and is done with it
    failed: bool = False  # so the controller said as it ended; a Pipeline's end is not told so
    lost: bool = False  # its connection had broken when its build ended
    vanished: bool = False  # the node was deleted by somebody else
    ended: bool = False  # the provider saw the instance end; `status` tells how
    hurry: bool = False  # what a retry waits for may be over: a controller or provider is back
    offline_cause: str = ""
    build_url: str | None = None
    missing_passes: int = 0  # complete snapshots in a row without the node
    resume_until: float | None = None  # monotonic; till then its Pipeline may come back after a controller restart
    cut_off_at: float | None = None  # monotonic; since when its agent was seen without a connection, each time anew
    idle_passes: int = 0  # snapshots in a row with the node online and not busy although its item left
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def touch(self) -> None:
        """Wake the reconciler."""
        self.changed.set()

    async def wait(self, ready: Callable[[], bool], clock: Clock, timeout_s: float | None = None) -> bool:
        """Wait until `ready()` or the time-out; says whether it is ready."""
        deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        while not ready():
            # no await between the check and this line: a touch in between cannot be lost
            self.changed.clear()
            remaining = None if deadline is None else deadline - clock.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            try:
                async with asyncio.timeout(remaining):
                    await self.changed.wait()
            except TimeoutError:
                return ready()
        return True
