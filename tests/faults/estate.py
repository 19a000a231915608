"""A whole sidecar in virtual time over a Jenkins and engines that outlive it, and what must be true of them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from unittest import mock

import structlog
from structlog.typing import EventDict

from provisioner.config import Settings
from provisioner.controller.port import BridgeMode
from provisioner.gateway.client import GatewayClient
from provisioner.gateway.meeting import ByGateway
from provisioner.lifecycle import planner, standby
from provisioner.lifecycle.desk import ControllerHandle, Desk
from provisioner.lifecycle.engine import Engine
from provisioner.lifecycle.operations import Operations, restore_drained
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.lifecycle.requests import RequestBook
from provisioner.model.agent import AgentState, Target, new_agent_name
from provisioner.records.store import Store
from provisioner.routing.match import Router
from provisioner.sidecar.gateway import GatewayKeeper
from provisioner.telemetry.metrics import Metrics
from tests.fakes.clock import VirtualClock, VirtualLoop
from tests.fakes.dialled import FakeDialled
from tests.fakes.engine import FakeEngine
from tests.fakes.gateway import FakeGateway, FakeGatewayClient
from tests.fakes.jenkins import FakeJenkins, Work
from tests.faults.mortal import Killed, Life, MortalBackend, MortalController, MortalStore, Reaper, immortal

#: How a thing that was queued may end, whoever dies: it ran, it was ended with its reason, or its users or
#: Jenkins itself made an end to it. Everything else is a lost build.
GOOD_ENDS = (
    "ran",
    "ran elsewhere",
    "ended:",
    "cancelled",
    "cut as allowed",
    "cut by a person",
    "died with the controller",
    "forgotten by the controller",
    "excused:",
)


def configured(folder: Path, **template: Any) -> Settings:
    """Two providers, two templates that share them."""
    return Settings.model_validate(
        {
            "id": "test",
            "state": str(folder / "state.db"),
            "controllers": [{"name": "main", "url": "http://127.0.0.1:1/", "user": "u", "token": {"env": "UNSET"}}],
            "limits": {"agents": template.pop("agents", 6), "launching": template.pop("launching", 5)},
            "providers": [
                {"name": "box", "backend": "docker", "max_agents": template.pop("box_agents", 3)},
                {"name": "den", "backend": "docker", "max_agents": 2},
            ],
            "templates": [
                {
                    "name": "maven",
                    "labels": ["maven"],
                    "providers": ["box", "den"],
                    "image": "maven:3.9",
                    "timeouts": {"connect": "60s"},
                    **template,
                },
                {"name": "node", "labels": ["node"], "providers": ["den"], "image": "node:20", "max_agents": 1},
            ],
        }
    )


class Broken(AssertionError):  # noqa: N818  (what the guarantee is, then)
    """A guarantee does not hold."""


class Estate:
    """The world and, most of the time, a sidecar in it."""

    def __init__(self, folder: Path, *, mode: BridgeMode = BridgeMode.SCRIPT, **template: Any) -> None:
        self.settings = configured(folder, **template)
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.box, self.den = FakeEngine(name="box"), FakeEngine(name="den")
        self.engines = {"box": self.box, "den": self.den}
        self.gateway = FakeGateway(self.engines)
        self.jenkins = FakeJenkins(self.clock, self.box, self.den, mode=mode)
        self.faults: list[str] = []  # errors that a sidecar logged
        self.lives: list[Life] = []
        self.life: Life | None = None
        self._jenkins_lives = self.loop.create_task(self.jenkins.live())
        self._tasks: list[asyncio.Task[None]] = []

    # the sidecar's lives

    def start(self, reaper: Reaper = immortal) -> None:
        """A sidecar begins, or the next one."""
        assert self.life is None
        self.life = Life(reaper)
        self.lives.append(self.life)
        for engine in self.engines.values():
            engine.reborn()
        self._tasks = [self.loop.create_task(self._live(self.life))]
        self.loop.pass_s(0)  # what is asked about it from here on is asked of this one

    async def _live(self, life: Life) -> None:
        templates = self.settings.templates
        self.store = MortalStore(life, self.settings.state_file, self.settings.id)
        self.desk = Desk(
            settings=self.settings,
            store=self.store,
            clock=self.clock,
            metrics=Metrics(),
            controllers={
                "main": ControllerHandle(name="main", agent_url="http://c/", port=MortalController(life, self.jenkins))
            },
            providers={
                p.name: ProviderHandle(
                    name=p.name,
                    kind="docker",
                    backend=MortalBackend(life, self.engines[p.name]),
                    max_agents=p.max_agents,
                )
                for p in self.settings.providers
            },
            book=RequestBook(self.store, self.clock, Router(templates)),
            dialled={
                "ssh": FakeDialled(),
                "ssh-gateway": ByGateway(
                    cast("GatewayClient", FakeGatewayClient(self.gateway, life.act)),
                    {name: {"name": name} for name in self.engines},
                ),
            },
        )
        restore_drained(self.desk)
        self.engine = Engine(self.desk)
        self.operations = Operations(self.engine)
        self.engine.take_over()
        sweeping = asyncio.create_task(GatewayKeeper(self.desk).sweep())
        try:
            await self.engine.run()
        finally:
            sweeping.cancel()

    def order(self, do: Callable[[Operations], object]) -> None:
        """An operator says so, to a process that is at work."""

        async def said() -> None:
            do(self.operations)

        self.loop.run(said())

    def kill(self) -> None:
        """`kill -9`: from here on nothing of it has any effect."""
        if self.life is None:
            return
        self.life.kill()
        self.loop.run(self._bury())
        self.life, self._tasks = None, []

    async def _bury(self) -> None:
        for _ in range(20):
            left = [t for t in asyncio.all_tasks() if t not in (asyncio.current_task(), self._jenkins_lives)]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=5)
        for task in self._tasks:
            task.cancelled() or task.exception()
        if hasattr(self, "store"):
            self.store._db.close()  # the operating system does this for a dead process, and lets the lock go
            self.store.close()

    def lose_state(self) -> None:
        """The machine with the state file is gone."""
        for path in self.settings.state_file.parent.glob(f"{self.settings.state_file.name}*"):
            path.unlink()

    @property
    def dead(self) -> bool:
        return self.life is not None and self.life.over

    # time

    def pass_s(self, seconds: float) -> None:
        """Let time pass, and look at the guarantees all the while; a life that ended is buried at once."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            step_s = min(1.0, until - self.clock.monotonic())
            self.loop.run(self._step(step_s))
            if self.dead:
                self.kill()
                return
            self.look()

    async def _step(self, seconds: float) -> None:
        ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(asyncio.sleep(seconds))]
        if self.life is not None:
            ends.append(asyncio.ensure_future(self.life.end.wait()))
        await asyncio.wait([*ends, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        for task in self._tasks:
            if task.done() and not self.dead:
                task.result()
                raise Broken("the loops ended by themselves")

    def until(self, true: Callable[[], object], what: str, within_s: float = 900.0) -> None:
        """Let time pass until it is so."""
        deadline = self.clock.monotonic() + within_s
        while not true():
            if self.clock.monotonic() > deadline:
                raise Broken(f"never so within {within_s:.0f} s: {what}\n{self.picture()}")
            self.pass_s(1.0)

    # what must be true

    def look(self) -> None:
        """Invariants of every instant."""
        limits = self.settings.limits
        alive = [name for e in self.engines.values() for name in e.instances]
        self._at_most(len(alive), limits.agents, "limits.agents")
        for provider in self.settings.providers:
            self._at_most(len(self.engines[provider.name].instances), provider.max_agents, provider.name)
        for template in self.settings.templates:
            have = sum(name.rsplit("-", 1)[0] == template.name for name in alive)
            self._at_most(have, template.max_agents, f"template {template.name}")
        for work in self.jenkins.works:
            if len(work.starts) > 1:
                raise Broken(f"work {work.number} began twice: {work.starts}\n{self.picture()}")
            for end in work.ended:
                if not end.startswith(GOOD_ENDS):
                    raise Broken(f"work {work.number}: {end}\n{self.picture()}")
            if len(work.ended) > 1:
                raise Broken(f"work {work.number} ended twice: {work.ended}\n{self.picture()}")
        if self.faults:
            raise Broken(f"the sidecar logged {self.faults}\n{self.picture()}")
        if self.life is not None and not self.life.over and hasattr(self, "desk"):
            self._look_at_records()

    def _look_at_records(self) -> None:
        serving: dict[object, str] = {}
        for task in self.desk.agents.values():
            agent = task.agent
            if agent.request is None or agent.target is Target.GONE or agent.state is AgentState.REMOVING:
                continue
            if agent.request in serving and self.desk.book.get(agent.request) is not None:
                raise Broken(f"{agent.name} and {serving[agent.request]} both serve {agent.request}\n{self.picture()}")
            serving[agent.request] = agent.name

    def _at_most(self, have: int, most: int | None, what: str) -> None:
        if most is not None and have > most:
            raise Broken(f"{have} instances, more than {most} of {what}\n{self.picture()}")

    def at_rest(self) -> bool:
        """Nothing of ours is anywhere, and nothing waits."""
        return (
            all(work.over for work in self.jenkins.works)
            and not self.jenkins.nodes
            and not self.jenkins.entries
            and all(engine.empty for engine in self.engines.values())
            and self.gateway.empty
            and not self.desk.agents
        )

    def finish(self, within_s: float = 1800.0) -> None:
        """Everything comes to its end, and nothing is left, in the records neither."""
        self.until(self.at_rest, "everything came to an end and nothing is left", within_s)
        # an agent may still be planned for an item that has left, before anybody has asked what became of it
        self.until(
            lambda: not self.store.requests() and not self.desk.book and self.at_rest(), "no request is left", 120
        )
        if self.store.live_agents():
            raise Broken(f"records of live agents are left: {self.store.live_agents()}")

    def outcomes(self) -> dict[int, str]:
        return {work.number: work.ended[0] for work in self.jenkins.works if work.ended}

    def picture(self) -> str:
        """What there is, for a failed test."""
        lines = [f"at {self.clock.monotonic():.1f} s, life {len(self.lives)}, session {self.jenkins.session}"]
        bad = lost(self.jenkins.works)
        suspects = {node for work in bad for node in work.starts}
        works = [*[w for w in bad if w.ended], *[w for w in bad if not w.ended][:12]]
        lines += [f"  work {w.number} {w.kind} {w.item and w.item.key} {w.starts} {w.ended}" for w in works]
        lines += [
            f"  node {n} online={v.online} known={v.known} accepting={v.accepting} "
            f"work={v.work and v.work.number} started={v.started} finished={v.finished}"
            for n, v in self.jenkins.nodes.items()
        ]
        for engine in self.engines.values():
            lines += [f"  {engine.name}: {n} {i.status.state.value}" for n, i in engine.instances.items()]
            lines += [f"  {engine.name}: volume {n}" for n in engine.volumes]
        if hasattr(self, "desk"):
            lines += [
                f"  agent {n} {t.agent.state.value} {t.agent.target.value} {t.agent.reason} {t.agent.detail} "
                f"for {t.agent.request} {t.facts}"
                for n, t in self.desk.agents.items()
            ]
            lines += [f"  request {r.item.key} {r.state.value} {r.agent} {r.detail}" for r in self.desk.book]
            if self.life is not None and not self.life.over:
                lines += [
                    f"  gone {a.name} {a.reason} {a.detail} {[(k, str(v)[11:21]) for k, v in a.marks.items()]}"
                    for n, a in enumerate(self.store.gone_agents(1000))
                    if n < 5 or a.name in suspects
                ]
        if self.lives:
            lines.append(f"  last points: {self.lives[-1].points[-12:]}")
        return "\n".join(lines)

    # the end

    def close(self) -> None:
        self.kill()
        self.loop.end()

    def __enter__(self) -> Self:
        self._around = ExitStack()
        self._around.enter_context(quiet(self.faults))
        numbers = itertools.count()

        def name(template: str) -> str:  # the same story has the same names each time
            return new_agent_name(template, lambda size: next(numbers).to_bytes(size, "little"))

        for module in (planner, standby):
            self._around.enter_context(mock.patch.object(module, "new_agent_name", name))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close()
        finally:
            self._around.close()


@contextmanager
def quiet(faults: list[str]) -> Iterator[None]:
    """No log but of what a sidecar calls a fault of its own; that is put into the list."""

    def keep(_logger: object, _method: str, event: EventDict) -> EventDict:
        name = str(event.get("event", ""))
        info = event.get("exc_info")
        raised = info if isinstance(info, BaseException) else sys.exc_info()[1]
        if name.endswith((".fault", "errand.failed")) and not isinstance(raised, Killed):
            told = "".join(traceback.format_exception(raised)) if raised else ""
            faults.append(f"{name} {event.get('agent') or event.get('errand') or ''} {event.get('error', '')}\n{told}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**before)


def lost(works: list[Work]) -> list[Work]:
    """Builds that came to no good end."""
    return [w for w in works if not w.ended or not w.ended[0].startswith(GOOD_ENDS)]


__all__ = ["Broken", "Estate", "Store", "lost", "quiet"]
