"""The sidecar's process life: start → loops → drain, signals, reload."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from provisioner import __version__
from provisioner.config import Settings, cautions, config_path, load
from provisioner.lifecycle.clock import SystemClock
from provisioner.lifecycle.engine import Engine
from provisioner.model.errors import ConfigError, LaunchError
from provisioner.sidecar.assembly import assemble
from provisioner.sidecar.cleaning import CleanupLoop
from provisioner.sidecar.gateway import GatewayKeeper
from provisioner.sidecar.lending import LoanLoop
from provisioner.sidecar.reload import apply_settings
from provisioner.web.server import WebServer

log = structlog.get_logger()

#: A drain ends within 10 s whatever hangs.
_DRAIN_S = 8.0
#: Of those, for the removal of standby agents.
_STANDBY_S = 5.0


class Sidecar:
    """One provisioner at work."""

    def __init__(self, config: Path, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._stop = asyncio.Event()
        self._engine: Engine | None = None

    async def run(self, ready: Callable[[str], None] = lambda _address: None) -> None:
        """Work until SIGTERM or SIGINT, then drain.

        Args:
            ready: called with the address of the HTTP server once everything is under way.

        Raises:
            ConfigError, StoreError, LaunchError: it cannot start; the message is for a person.
        """
        clock = SystemClock()
        async with AsyncExitStack() as stack:
            desk = assemble(self._settings, clock)
            stack.callback(desk.store.close)
            if desk.store.set_aside:
                log.error("state.damaged", kept=str(desk.store.set_aside), next="rebuilding from the marks outside")
            engine = self._engine = Engine(desk)
            server = WebServer(engine, self._settings)
            address = await server.start()
            stack.push_async_callback(server.stop)
            taken_over = engine.take_over()
            log.info(
                "sidecar.started", version=__version__, id=self._settings.id, http=address, agents_taken_over=taken_over
            )
            loops = asyncio.create_task(engine.run(), name="engine")
            cleanup = asyncio.create_task(CleanupLoop(desk).run(), name="cleanup")
            stack.callback(cleanup.cancel)
            for caution in cautions(self._settings):
                log.warning("config.caution", problem=caution)
            loans = asyncio.create_task(LoanLoop(desk).run(), name="loans")
            stack.callback(loans.cancel)
            gateway = GatewayKeeper(desk)
            keeping = asyncio.create_task(gateway.run(), name="gateway")
            stack.callback(keeping.cancel)
            stack.push_async_callback(gateway.part)
            self._catch_signals()
            ready(address)
            stopped = asyncio.create_task(self._stop.wait(), name="stop")
            await asyncio.wait({loops, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not self._stop.is_set():
                await loops  # a loop ended by a fault of ours: let it be seen
            await self._drain(engine, loops)

    async def _drain(self, engine: Engine, loops: asyncio.Task[None]) -> None:
        """Place nothing new, leave busy agents to their builds; a later start takes them up again."""
        engine.planner.stopped = True
        busy = len(engine.desk.agents)
        log.info("sidecar.stopping", agents_left_to_themselves=busy)
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self._end_standby(engine)
                loops.cancel()
                await asyncio.gather(loops, return_exceptions=True)
                await engine.desk.end_errands()
                await asyncio.gather(
                    *(c.port.close() for c in engine.desk.controllers.values()),
                    *(p.backend.close() for p in engine.desk.providers.values()),
                    return_exceptions=True,
                )
        except TimeoutError:
            log.warning("sidecar.cut_short", problem=f"something did not end within {_DRAIN_S:.0f} s")
        log.info("sidecar.stopped")

    @staticmethod
    async def _end_standby(engine: Engine) -> None:
        """Remove what waits for a build; what takes longer is removed by the next start."""
        leaving = set(engine.planner.standby.retire_all())
        try:
            async with asyncio.timeout(_STANDBY_S):
                while not leaving.isdisjoint(engine.desk.agents):  # noqa: ASYNC110  (once in a life)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log.warning("standby.left", agents=sorted(leaving.intersection(engine.desk.agents)))

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def _asked_to_stop(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("sidecar.killed", signal=signal.Signals(number).name)
            os._exit(128 + number)  # asked twice: at once; every act is on disk
        self._stop.set()

    def reload(self) -> None:
        """Take the file's new content; a bad file leaves the old configuration in force."""
        engine = self._engine
        if engine is None:
            return
        try:
            apply_settings(engine, load(self._config))
        except (ConfigError, LaunchError) as error:
            log.error("config.refused", problem=error.message, next="the old configuration stays in force")
            return
        log.info("config.reloaded", file=str(config_path(self._config)))
