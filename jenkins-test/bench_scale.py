"""What a build costs the sidecar when very much waits, over what it costs when little does.

    python jenkins-test/bench_scale.py [--turns 3] [--items 10000] [--agents 1000] [--out FILE]

Two benchmarks, both over 50 templates and 20 providers, in this process, with no Jenkins and no engine:

- `planning`: routing and capacity alone, as the planner calls them, pass after pass until everything was placed.
- `lifecycle`: the whole of it over fakes in memory: records in SQLite, planner, reconcilers, launch logs. Its figure
  of agents a second is what one core can do beside a controller and engines that cost nothing.

Each is measured in turn with a hundredth of it, and given as processor time for one build.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import structlog  # noqa: E402

from provisioner.backends.contract import InstanceState  # noqa: E402
from provisioner.capacity.placement import Asked, Place, counted_turns, place  # noqa: E402
from provisioner.capacity.plant import Plant  # noqa: E402
from provisioner.config import Settings  # noqa: E402
from provisioner.lifecycle.clock import SystemClock  # noqa: E402
from provisioner.lifecycle.desk import ControllerHandle, Desk  # noqa: E402
from provisioner.lifecycle.engine import Engine  # noqa: E402
from provisioner.lifecycle.providers import ProviderHandle  # noqa: E402
from provisioner.lifecycle.requests import RequestBook  # noqa: E402
from provisioner.model.agent import Agent, AgentState, Target  # noqa: E402
from provisioner.model.queue import ItemKind, QueueItem, RequestKey  # noqa: E402
from provisioner.records.store import Store  # noqa: E402
from provisioner.routing.match import Router  # noqa: E402
from provisioner.telemetry.metrics import Metrics  # noqa: E402
from tests.fakes.backend import FakeBackend  # noqa: E402
from tests.fakes.controller import FakeController  # noqa: E402

TEMPLATES, PROVIDERS, LAUNCHING = 50, 20, 50


def settings(state: Path, agents: int) -> Settings:
    providers = [f"p{n}" for n in range(PROVIDERS)]
    return Settings.model_validate(
        {
            "id": "bench",
            "state": str(state),
            "controllers": [{"name": "main", "url": "http://127.0.0.1:1/", "user": "u", "token": {"env": "UNSET"}}],
            "limits": {"agents": agents, "launching": min(LAUNCHING, agents), "labels": {"l0": 2000}},
            "providers": [
                {"name": name, "backend": "docker", "max_agents": max(1, agents // PROVIDERS)} for name in providers
            ],
            "templates": [
                {
                    "name": f"t{n}",
                    "labels": [f"l{n}", "image={image}"],
                    "providers": [providers[(n + k) % PROVIDERS] for k in range(4)],
                    "image": "x:1",
                    "overrides": {"image": {"parameter": "IMAGE", "allow": ["*"]}},
                    "timeouts": {"lifetime": "1h"},
                }
                for n in range(TEMPLATES)
            ],
        }
    )


def item(number: int) -> QueueItem:
    key = RequestKey(controller="main", queue_id=number, since_ms=number, task=f"job/j{number}/")
    return QueueItem(key=key, kind=ItemKind.FREESTYLE, job=f"j{number}", label=f"l{number % TEMPLATES}")


def planning(items: int, agents: int, folder: Path) -> dict[str, float]:
    """Placing everything, an agent's life being as many passes as it takes the plant to be full."""
    configured = settings(folder / "unused.db", agents)
    templates = {t.name: t for t in configured.templates}
    router = Router(configured.templates)
    plant = Plant(
        templates=templates,
        providers={p.name: p for p in configured.providers},
        limits=configured.limits,
        controllers={"main": None},
    )
    lines: dict[str, deque[QueueItem]] = {}
    for number in range(1, items + 1):
        one = item(number)
        winner = router.match(one).winner
        assert winner is not None
        lines.setdefault(winner.template, deque()).append(one)
    running: deque[Agent] = deque()
    launching: list[Agent] = []
    turns: dict[str, int] = {}
    placed = passes = 0
    began = time.process_time()
    while placed < items:
        passes += 1
        free = configured.limits.agents - len(running)
        heads = [one for line in lines.values() for one in islice(line, max(1, min(free, LAUNCHING)))]
        heads.sort(key=lambda one: one.key.queue_id)
        asked = [Asked(key=one.key, routing=router.match(one)) for one in heads]
        decisions = place(asked, plant=plant, agents=running, last_turns=turns)
        turns = counted_turns(turns, decisions)
        for decision in decisions:
            if isinstance(decision, Place):
                line = lines[decision.template]
                assert line.popleft().key == decision.key
                if not line:
                    del lines[decision.template]
                launching.append(_running(decision))
        placed += len(launching)
        if not launching or len(running) >= configured.limits.agents:
            for _ in range(min(len(running), max(1, agents // 20))):  # builds end
                running.popleft()
        running.extend(launching)
        launching.clear()
    took = time.process_time() - began
    return {"cpu_ms_per_build": took * 1000 / items, "passes": passes}


def _running(decision: Place) -> Agent:
    return Agent(
        name=f"{decision.template}-{decision.key.queue_id}",
        owner="bench",
        controller="main",
        template=decision.template,
        provider=decision.provider,
        request=decision.key,
        state=AgentState.RUNNING,
        target=Target.SERVE,
        created_at=SystemClock().now(),
        labels=("l0",) if decision.template == "t0" else (),
    )


class Jenkins(FakeController):
    """Agents connect and builds run by themselves, each for some turns."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self._turns = turns
        self._running: deque[tuple[int, str]] = deque()
        self.finished = 0

    async def play(self, backends: dict[str, FakeBackend]) -> None:
        seen: set[str] = set()
        turn = 0
        while True:
            turn += 1
            for backend in backends.values():
                for name, instance in list(backend.instances.items()):
                    if name not in seen and instance.status.state is InstanceState.RUNNING and name in self.nodes:
                        seen.add(name)
                        self.connect(name)
                        self.start_build(name)
                        self._running.append((turn + self._turns, name))
            while self._running and self._running[0][0] <= turn:
                _, name = self._running.popleft()
                self.finish_build(name)
                self.finished += 1
            await asyncio.sleep(0.001)


async def lifecycle(items: int, agents: int, folder: Path, *, memory: bool = False) -> dict[str, float]:
    configured = settings(folder / f"{time.monotonic_ns()}.db", agents)
    clock = SystemClock()
    store = Store(configured.state_file, configured.id)
    jenkins = Jenkins(turns=100)
    backends = {p.name: FakeBackend() for p in configured.providers}
    desk = Desk(
        settings=configured,
        store=store,
        clock=clock,
        metrics=Metrics(),
        controllers={"main": ControllerHandle(name="main", agent_url="http://c/", port=jenkins)},
        providers={
            p.name: ProviderHandle(name=p.name, kind="docker", backend=backends[p.name], max_agents=p.max_agents)
            for p in configured.providers
        },
        book=RequestBook(store, clock, Router(configured.templates), configured.limits.labels),
    )
    engine = Engine(desk)
    for number in range(1, items + 1):
        one = item(number)
        jenkins.items[number] = one
        desk.book.see(one)
    gc.collect()
    if memory:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0] if memory else 0
    began, wall = time.process_time(), time.monotonic()
    work = asyncio.create_task(engine.run())
    play = asyncio.create_task(jenkins.play(backends))
    most = held = 0
    while jenkins.finished < items or desk.agents:
        await asyncio.sleep(0.02)
        if len(desk.agents) > most:
            most = len(desk.agents)
            held = tracemalloc.get_traced_memory()[0] - before if memory else 0
        for task in (work, play):
            if task.done():
                task.result()
    took, passed = time.process_time() - began, time.monotonic() - wall
    for task in (work, play):
        task.cancel()
    await asyncio.gather(work, play, return_exceptions=True)
    await desk.end_errands()
    store.close()
    if memory:
        tracemalloc.stop()
    return {
        "cpu_ms_per_build": took * 1000 / items,
        "agents_a_second": items / took,
        "wall_s": passed,
        "most_agents": most,
        "kb_per_agent": held / 1024 / max(1, most),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[lambda *_: ""])
    large, small = (options.items, options.agents), (max(1, options.items // 100), max(1, options.agents // 100))
    found: dict[str, Any] = {"templates": TEMPLATES, "providers": PROVIDERS, "large": large, "small": small}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planned: dict[tuple[int, int], list[dict[str, float]]] = {large: [], small: []}
        lived: dict[tuple[int, int], list[dict[str, float]]] = {large: [], small: []}
        for _ in range(options.turns):
            for size in (small, large):
                planned[size] += [planning(*size, folder) for _ in range(20 if size == small else 1)]
                lived[size] += [asyncio.run(lifecycle(*size, folder)) for _ in range(5 if size == small else 1)]
        for kind, runs in (("planning", planned), ("lifecycle", lived)):
            costs = {size: statistics.median(run["cpu_ms_per_build"] for run in some) for size, some in runs.items()}
            found[kind] = {
                "cpu ms per build, large": round(costs[large], 3),
                "cpu ms per build, small": round(costs[small], 3),
                "ratio": round(costs[large] / costs[small], 2),
            }
        found["lifecycle"]["agents a second of one core"] = round(
            statistics.median(run["agents_a_second"] for run in lived[large])
        )
        memory = {size: asyncio.run(lifecycle(*size, folder, memory=True)) for size in (small, large)}
        found["memory, kB per agent"] = {str(size[1]): round(run["kb_per_agent"], 1) for size, run in memory.items()}
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
