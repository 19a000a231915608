"""A sidecar's lifecycle over fakes: real records, real planner, real reconcilers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provisioner.config import Settings
from provisioner.lifecycle.clock import SystemClock
from provisioner.lifecycle.desk import ControllerHandle, Desk
from provisioner.lifecycle.engine import Engine
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.lifecycle.requests import RequestBook
from provisioner.records.store import Store
from provisioner.routing.match import Router
from provisioner.telemetry.metrics import Metrics
from tests.fakes.backend import FakeBackend
from tests.fakes.controller import FakeController
from tests.fakes.dialled import FakeDialled


def settings(tmp_path: Path, **template: Any) -> Settings:
    more = template.pop("more_templates", ())
    return Settings.model_validate(
        {
            "id": "test",
            "state": str(tmp_path / "state.db"),
            "controllers": [
                {"name": "main", "url": "http://127.0.0.1:1/", "user": "u", "token": {"env": "UNSET"}},
            ],
            "limits": {"agents": template.pop("agents", 200), "launching": template.pop("launching", 20)},
            "providers": [
                {"name": "box", "backend": "docker", "max_agents": template.pop("box_agents", 10)},
                *template.pop("more_providers", ()),
            ],
            "templates": [
                {"name": "maven", "labels": ["maven"], "providers": ["box"], "image": "maven:3.9", **template},
                *more,
            ],
        }
    )


class ShiftedClock(SystemClock):
    """The machine's time; a test moves the wall clock on by `shift`."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self) -> datetime:
        return super().now() + self.shift


class House:
    """One running lifecycle; `kill` ends it as `kill -9` would, `revive` starts another over the same records."""

    def __init__(self, configured: Settings, controller: FakeController, backend: FakeBackend) -> None:
        self.settings = configured
        self.controller = controller
        self.backend = backend
        self.backends = {p.name: backend if p.name == "box" else FakeBackend() for p in configured.providers}
        self.clock = ShiftedClock()
        self.dialled = FakeDialled()
        self._running: asyncio.Task[None] | None = None

    def revive(self) -> None:
        clock = self.clock
        self.store = Store(self.settings.state_file, self.settings.id)
        templates = self.settings.templates
        self.desk = Desk(
            settings=self.settings,
            store=self.store,
            clock=clock,
            metrics=Metrics(),
            controllers={"main": ControllerHandle(name="main", agent_url="http://c/", port=self.controller)},
            providers={
                p.name: ProviderHandle(
                    name=p.name, kind="docker", backend=self.backends[p.name], max_agents=p.max_agents
                )
                for p in self.settings.providers
            },
            book=RequestBook(
                self.store,
                clock,
                Router(templates),
                self.settings.limits.labels,
            ),
            dialled={"ssh": self.dialled},
        )
        self.engine = Engine(self.desk)
        self.engine.take_over()
        self._running = asyncio.create_task(self.engine.run())

    async def kill(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.desk.end_errands()
        self.store.close()

    async def until(self, true: Callable[[], object], what: str = "", *, within_s: float = 60.0) -> None:
        """Let everything run until it is so; fails the test if it never is."""
        try:
            async with asyncio.timeout(within_s):
                while not true():
                    if self._running and self._running.done():
                        self._running.result()
                    await asyncio.sleep(0.002)
        except TimeoutError:
            states = {n: (t.agent.state.value, t.agent.reason) for n, t in self.desk.agents.items()}
            pytest.fail(f"never so: {what or true}; agents {states}, requests {list(self.desk.book)}")

    async def agent(self, *, besides: set[str] = frozenset()) -> str:  # type: ignore[assignment]
        """The name of the next agent whose instance runs."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [
                n for n, t in self.desk.agents.items() if n not in besides and t.agent.state.value == "connecting"
            ]
            return bool(found)

        await self.until(there, "an agent is connecting")
        return found[0]

    def nothing_left(self) -> bool:
        return not (self.desk.agents or self.controller.nodes or any(b.instances for b in self.backends.values()))


@pytest.fixture
async def make_house(tmp_path: Path) -> AsyncIterator[Callable[..., House]]:
    houses: list[House] = []

    def make(controller: FakeController | None = None, **template: Any) -> House:
        house = House(settings(tmp_path, **template), controller or FakeController(), FakeBackend())
        house.revive()
        houses.append(house)
        return house

    yield make
    for house in houses:
        await house.kill()


@pytest.fixture
async def house(make_house: Callable[..., House]) -> House:
    return make_house()
