"""A real server on a loopback port, over a real engine and fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provisioner.config import Settings
from provisioner.web.server import WebServer
from tests.fakes.backend import FakeBackend
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House, settings


class Served:
    """A house with its server; `ask` sends the token, `bare` does not."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.server = WebServer(house.engine, house.settings)

    async def open(self) -> None:
        self.address = await self.server.start()
        self.url = f"http://{self.address}"
        self.token = self.house.settings.token_file.read_text().strip()
        self.bare = aiohttp.ClientSession(self.url, cookie_jar=aiohttp.CookieJar(unsafe=True))
        self.bearer = {"Authorization": f"Bearer {self.token}"}

    async def close(self) -> None:
        await self.bare.close()
        await self.server.stop()

    async def ask(self, path: str, method: str = "GET", status: int = 200, **more: Any) -> Any:
        headers = {**self.bearer, **more.pop("headers", {})}
        async with self.bare.request(method, path, headers=headers, **more) as answer:
            text = await answer.text()
            assert answer.status == status, f"{method} {path}: {answer.status} {text}"
            return await answer.json() if answer.content_type == "application/json" else text


@pytest.fixture
async def make_served(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    open_now: list[tuple[Served, House]] = []

    async def make(configured: Settings | None = None, **template: Any) -> Served:
        house = House(configured or settings(tmp_path, **template), FakeController(), FakeBackend())
        house.settings = house.settings.model_copy(
            update={"http": house.settings.http.model_copy(update={"listen": "127.0.0.1:0"})}
        )
        house.revive()
        served = Served(house)
        await served.open()
        open_now.append((served, house))
        return served

    yield make
    for served, house in open_now:
        await served.close()
        await house.kill()


@pytest.fixture
async def served(make_served: Callable[..., Any]) -> Served:
    made: Served = await make_served()
    return made


async def running(served: Served, job: str = "app") -> str:
    """The name of an agent whose build runs."""
    house = served.house
    house.controller.queue(job=job)
    name = await house.agent()
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: house.desk.agents[name].agent.state.value == "running")
    return name


async def gone(served: Served, name: str) -> None:
    """Wait until an agent is gone."""
    await served.house.until(lambda: name not in served.house.desk.agents)


async def soon() -> None:
    """Let every ready task run."""
    for _ in range(20):
        await asyncio.sleep(0)
