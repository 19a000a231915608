"""A reverse proxy in between that cuts what is silent for long: events go on coming, and nobody calls it an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from urllib.parse import urlsplit

import pytest

from provisioner.controller.connection import Connection
from provisioner.controller.port import BridgeMode, ItemBuildable, Observation, Snapshot, Unreachable
from provisioner.controller.rest import Rest
from tests.builds import build, freestyle
from tests.standin_process import StandinProcess

_SILENCE_S = 1.5


class Proxy:
    """Passes bytes on, and ends a connection over which nothing has come for a while."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self.cuts = 0

    async def __aenter__(self) -> str:
        self._served: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._served:  # those over which nothing was said any more
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._served.add(task)
            task.add_done_callback(self._served.discard)
        there, here = await asyncio.open_connection(self._to.hostname, self._to.port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, here, patience_s=None))
                both.create_task(self._pass(there, writer, patience_s=_SILENCE_S))
        except* (ConnectionError, TimeoutError):
            pass
        finally:
            for end in (writer, here):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, patience_s: float | None
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    data = await source.read(65536)
            except TimeoutError:
                self.cuts += 1
                raise
            if not data:
                raise ConnectionResetError
            target.write(data)
            await target.drain()


@pytest.mark.timeout(90)
async def test_events_come_through_a_proxy_that_cuts_the_long_poll(standin: StandinProcess) -> None:
    proxy = Proxy(standin.url)
    async with proxy as url:
        http = Rest(name="main", url=url, user=standin.user, token=standin.token)
        port = Connection(http, owner="proxied", bridge="auto", poll_interval_s=1.0)
        seen: list[Observation] = []
        try:
            assert (await port.open()).mode is not BridgeMode.OFF
            async with aclosing(port.watch()) as watching:  # type: ignore[type-var]
                await _until(watching, seen, Snapshot)
                while proxy.cuts < 1:  # the first poll is longer than the proxy's patience
                    look = asyncio.create_task(_next(watching))
                    await asyncio.sleep(2 * _SILENCE_S)
                    freestyle(standin, "proxied", "true", "nobody")
                    build(standin, "proxied")
                    seen.append(await look)
                await _until(watching, seen, ItemBuildable)
        finally:
            await port.close()
    assert proxy.cuts >= 1
    assert not [one for one in seen if isinstance(one, Unreachable)]


async def _next(watching: AsyncIterator[Observation]) -> Observation:
    return await anext(watching)


async def _until(watching: AsyncIterator[Observation], seen: list[Observation], kind: type[Observation]) -> None:
    while not any(isinstance(one, kind) for one in seen):
        seen.append(await anext(watching))
