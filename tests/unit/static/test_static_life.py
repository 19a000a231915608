"""Requests served by clean static nodes: real records, planner and reconcilers over a controller in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from provisioner.capacity.explain import Verdict
from provisioner.controller.port import Controller
from provisioner.controller.rest import Rest
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.errors import ControllerError, NoRoom
from provisioner.model.queue import RequestKey
from provisioner.static.backend import StaticBackend
from provisioner.static.facts import Seat, StaticNode
from provisioner.static.nodes import StaticNodes
from provisioner.static.port import StaticPort
from provisioner.web.health import readiness
from tests.fakes.backend import FakeBackend
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House, settings


@dataclass
class FakeSeats:
    """Nodes that a test makes clean, uses and breaks."""

    exclusive: bool = True
    nodes: dict[str, StaticNode] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refuse: ControllerError | None = None
    gone: ControllerError | None = None

    def add(self, name: str, *labels: str, unfit: str = "") -> None:
        self.nodes[name] = StaticNode(name=name, labels=frozenset(labels), online=True, unfit=unfit)

    def look(self) -> tuple[StaticNode, ...]:
        if self.refuse is not None:
            raise self.refuse
        return tuple(self.nodes.values())

    def reserve(self, node: str, seat: Seat, lines: Sequence[str]) -> str:
        self.calls.append(f"reserve {node}")
        if self.nodes[node].unfit:
            return self.nodes[node].unfit
        self.nodes[node] = replace(self.nodes[node], seat=seat, unfit=f"is reserved for {seat.agent}")
        self.lines[node] = list(lines)
        return ""

    def say(self, node: str, agent: str, lines: Sequence[str]) -> None:
        self.lines[node].extend(lines)

    def close(self, node: str, agent: str) -> None:
        self.calls.append(f"close {node}")

    def free(self, node: str, agent: str, *, ends_build: bool) -> None:
        if self.gone is not None:
            raise self.gone
        self.calls.append(f"free {node}{' with its build' if ends_build else ''}")
        self.nodes[node] = replace(self.nodes[node], seat=None, unfit="is not clean", busy=False)

    def begin(self, node: str) -> None:
        seat = self.nodes[node].seat
        assert seat is not None
        self.nodes[node] = replace(
            self.nodes[node], seat=replace(seat, taken=True), busy=True, build_url="http://x/job/app/1/"
        )

    def end(self, node: str) -> None:
        seat = self.nodes[node].seat
        assert seat is not None
        self.nodes[node] = replace(self.nodes[node], seat=replace(seat, finished=True), busy=False)


@dataclass
class FakeCleaner:
    told: list[tuple[str, str | None]] = field(default_factory=list)

    def used(self, name: str, url: str | None) -> None:
        self.told.append((name, url))


def static_nodes(seats: FakeSeats, plainly: FakeSeats | None = None, **needs: Sequence[str]) -> StaticNodes:
    http = Rest(name="main", url="http://127.0.0.1:1/", user="u", token="t")
    return StaticNodes(
        owner="test",
        http=http,
        seats=seats,
        plainly=plainly or seats,
        cleaner=FakeCleaner(),
        needs=needs or {"lab": ()},
    )


class StaticHouse:
    """A lifecycle whose template has static nodes at `lab`, and the provider `box` for the overflow."""

    def __init__(self, tmp_path: Path, seats: FakeSeats, **template: Any) -> None:
        lab = {"name": "lab", "backend": "static", "max_agents": 3}
        configured = settings(tmp_path, more_providers=[lab], providers=["lab", "box"], **template)
        self.seats, self.fake = seats, FakeController()
        self.nodes = static_nodes(seats)
        port: Controller = StaticPort(self.fake, self.nodes, providers=["lab"], interval_s=0.02)
        self.house = House(configured, port, FakeBackend())  # type: ignore[arg-type]
        self.revive()

    def revive(self) -> None:
        house = self.house
        house.backends["lab"] = StaticBackend("lab", self.nodes)  # type: ignore[assignment]
        house.revive()
        handle = house.desk.providers["lab"]
        handle.room, handle.look = (lambda: self.nodes.room("lab")), (lambda: self.nodes.look(0.0))
        for agent in house.store.live_agents():
            if "node" in agent.ids:
                self.nodes.remember(agent.name, agent.ids["node"], agent.request)
        house.engine.planner.reconfigure()

    async def kill(self) -> None:
        await self.house.kill()

    async def reserved(self, node: str) -> str:
        await self.house.until(lambda: self.seats.nodes[node].seat is not None, f"{node} is reserved")
        seat = self.seats.nodes[node].seat
        assert seat is not None
        return seat.agent


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., StaticHouse]]:
    made: list[StaticHouse] = []

    def one(seats: FakeSeats, **template: Any) -> StaticHouse:
        made.append(StaticHouse(tmp_path, seats, **template))
        return made[-1]

    yield one
    for house in made:
        await house.kill()
        house.nodes.close()


async def test_a_clean_node_serves_before_anything_is_started_and_goes_back_used(
    make: Callable[..., StaticHouse],
) -> None:
    seats = FakeSeats()
    seats.add("c1", "linux")
    static = make(seats)
    item = static.fake.queue()
    agent = await static.reserved("c1")
    assert not static.fake.registered
    assert not static.house.backend.instances
    seat = seats.nodes["c1"].seat
    assert seat is not None
    assert (seat.queue_id, seat.labels) == (item.key.queue_id, ("maven",))
    assert any("on provider lab serves this build" in line for line in seats.lines["c1"])
    seats.begin("c1")
    static.fake.take_elsewhere(item, "c1")
    await static.house.until(lambda: static.house.desk.agents[agent].agent.state.value == "running")
    cleaner: Any = static.nodes._cleaner
    await static.house.until(lambda: cleaner.told == [("c1", "http://x/job/app/1/")], "it is told while it runs")
    seats.end("c1")
    await static.house.until(lambda: not static.house.desk.agents, "it is gone")
    assert seats.calls == ["reserve c1", "close c1", "free c1"]
    assert cleaner.told == [("c1", "http://x/job/app/1/")]


async def test_what_they_cannot_take_overflows_and_is_counted_and_explained(
    make: Callable[..., StaticHouse],
) -> None:
    seats = FakeSeats()
    seats.add("c1", "linux")
    seats.add("c2", "linux", unfit="is not clean")
    static = make(seats, box_agents=1)
    for _ in range(3):
        static.fake.queue()
    await static.reserved("c1")
    await static.house.until(lambda: len(static.house.desk.agents) == 2)
    assert sorted(t.agent.provider for t in static.house.desk.agents.values()) == ["box", "lab"]
    await static.nodes.look(0.0)
    told = Outlook(static.house.engine).explain_item(3)
    assert told.verdict is Verdict.WAIT
    why = " ".join(told.reasons)
    assert "provider lab is occupied: none of its nodes is clean and free: c1 is reserved" in why
    assert "c2 is not clean" in why
    assert "provider box is full (1 of 1 agents)" in why


async def test_a_node_that_became_clean_a_moment_ago_is_seen_before_anything_is_started(
    make: Callable[..., StaticHouse],
) -> None:
    seats = FakeSeats()
    seats.add("c1", unfit="is not clean")
    static = make(seats)
    await static.house.until(lambda: static.house.desk.providers["lab"].up)
    seats.add("c1")
    static.fake.queue()
    await static.reserved("c1")
    assert not static.fake.registered


async def test_a_build_that_asks_for_something_of_its_own_gets_no_static_node(
    make: Callable[..., StaticHouse],
) -> None:
    seats = FakeSeats()
    seats.add("c1")
    static = make(seats, overrides={"memory": {"parameter": "M", "max": "8g"}}, resources={"memory": "1g"})
    static.fake.queue(parameters={"M": "4g"})
    await static.house.until(lambda: static.fake.registered)
    assert seats.nodes["c1"].seat is None
    static.fake.queue(parameters={})
    await static.reserved("c1")


async def test_standby_never_waits_on_a_static_node(make: Callable[..., StaticHouse]) -> None:
    seats = FakeSeats()
    seats.add("c1")
    static = make(seats, standby=1)
    await static.house.until(lambda: static.fake.registered)
    assert {t.agent.provider for t in static.house.desk.agents.values()} == {"box"}
    assert seats.nodes["c1"].seat is None


async def test_a_cancelled_item_gives_its_node_back_unused(make: Callable[..., StaticHouse]) -> None:
    seats = FakeSeats()
    seats.add("c1")
    static = make(seats)
    item = static.fake.queue()
    await static.reserved("c1")
    static.fake.cancel(item)
    await static.house.until(lambda: not static.house.desk.agents)
    assert seats.calls == ["reserve c1", "free c1"]
    cleaner: Any = static.nodes._cleaner
    assert not cleaner.told


async def test_a_build_that_is_to_end_is_ended_with_its_agent(make: Callable[..., StaticHouse]) -> None:
    seats = FakeSeats()
    seats.add("c1")
    static = make(seats)
    item = static.fake.queue()
    agent = await static.reserved("c1")
    seats.begin("c1")
    static.fake.take_elsewhere(item, "c1")
    await static.house.until(lambda: static.house.desk.agents[agent].agent.state.value == "running")
    static.house.desk.agents[agent].want_gone(None, "an operator said so")
    await static.house.until(lambda: not static.house.desk.agents)
    assert seats.calls[-1] == "free c1 with its build"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_killed_sidecar_takes_its_reservation_up_again(make: Callable[..., StaticHouse], begun: bool) -> None:
    seats = FakeSeats()
    seats.add("c1")
    static = make(seats)
    item = static.fake.queue()
    agent = await static.reserved("c1")
    await static.house.until(lambda: "node" in static.house.desk.agents[agent].agent.ids)
    await static.house.kill()
    if begun:
        seats.begin("c1")
        static.fake.take_elsewhere(item, "c1")
    static.nodes._placed.clear()
    static.revive()
    if not begun:
        static.fake.show()
        seats.begin("c1")
        static.fake.take_elsewhere(item, "c1")
    static.fake.show()
    await static.house.until(lambda: static.house.desk.agents[agent].agent.state.value == "running")
    seats.end("c1")
    await static.house.until(lambda: not static.house.desk.agents)
    assert seats.calls.count("reserve c1") == 1
    assert seats.calls[-1] == "free c1"


def forgotten(static: StaticHouse, node: str, *, unfit: str = "") -> None:
    """The controller was started anew: what it kept in memory is gone."""
    static.seats.nodes[node] = replace(static.seats.nodes[node], seat=None, unfit=unfit)
    static.fake.restart()


async def test_a_reservation_that_the_controller_lost_is_made_anew(make: Callable[..., StaticHouse]) -> None:
    seats = FakeSeats()
    seats.add("c1", "linux")
    static = make(seats)
    item = static.fake.queue()
    agent = await static.reserved("c1")
    await static.house.until(lambda: static.house.desk.agents[agent].agent.state.value == "idle")
    first = seats.nodes["c1"].seat
    forgotten(static, "c1")
    assert await static.reserved("c1") == agent
    assert seats.nodes["c1"].seat == first
    assert any("on provider lab serves this build" in line for line in seats.lines["c1"])
    seats.begin("c1")
    static.fake.take_elsewhere(item, "c1")
    await static.house.until(lambda: static.house.desk.agents[agent].agent.state.value == "running")


async def test_a_lost_reservation_of_a_node_that_is_not_fit_any_more_ends_its_agent_and_another_serves(
    make: Callable[..., StaticHouse],
) -> None:
    seats = FakeSeats()
    seats.add("c1")
    static = make(seats)
    static.fake.queue()
    agent = await static.reserved("c1")
    await static.house.until(lambda: static.house.desk.agents[agent].agent.state.value == "idle")
    forgotten(static, "c1", unfit="is not connected")
    await static.house.until(lambda: static.nodes.placed(agent) is None, "it has no node any more")
    for _ in range(2):
        static.fake.show()
    await static.house.until(lambda: static.fake.registered, "another is made for it")
    await static.house.until(lambda: agent not in static.house.desk.agents, "it is gone")
    assert seats.calls == ["reserve c1"]


async def test_a_look_from_before_a_reservation_takes_it_for_no_loss() -> None:
    now_s = 0.0
    seats = FakeSeats()
    seats.add("c1")
    nodes = static_nodes(seats)
    nodes._monotonic = lambda: now_s
    key = RequestKey(controller="main", queue_id=1, since_ms=1, task="job/a/")
    reserved: list[str] = []
    look = seats.look

    def slow() -> tuple[StaticNode, ...]:
        nonlocal now_s
        seen = look()
        now_s += 1.0
        nodes.remember("maven-1", "c1", key)
        reserved.append("c1")
        return seen

    seats.look = slow  # type: ignore[method-assign]
    await nodes.look(0.0)
    (placed,) = nodes.all_placed()
    assert reserved
    assert not placed.lost
    now_s += 1.0
    seats.look = look  # type: ignore[method-assign]
    await nodes.look(0.0)
    assert placed.lost
    nodes.close()


async def test_a_reservation_that_is_given_back_is_not_made_anew() -> None:
    seats = FakeSeats()
    seats.add("c1")
    nodes = static_nodes(seats)
    key = RequestKey(controller="main", queue_id=1, since_ms=1, task="job/a/")
    await nodes.place("lab", "maven-1", key, (), ())
    seats.nodes["c1"] = replace(seats.nodes["c1"], seat=None, unfit="")
    await asyncio.gather(nodes.give_back("maven-1"), nodes.seat_again("maven-1", ()))
    assert seats.nodes["c1"].seat is None
    assert nodes.placed("maven-1") is None
    nodes.close()


async def test_a_reservation_that_no_record_knows_is_swept(
    make: Callable[..., StaticHouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.lifecycle.sweep.FIRST_SWEEP_S", 0.0)
    monkeypatch.setattr("provisioner.lifecycle.sweep.RESUME_GRACE_S", 0.0)
    seats = FakeSeats()
    seats.add("c1", unfit="is reserved for maven-lost")
    seat = Seat(agent="maven-lost", owner="test", queue_id=77, since_ms=1)
    seats.nodes["c1"] = replace(seats.nodes["c1"], seat=seat)
    static = make(seats)
    for _ in range(3):
        static.fake.show()
        await asyncio.sleep(0.02)
    await static.house.until(lambda: seats.nodes["c1"].seat is None, "it is free")


async def test_one_node_is_never_for_two_agents_and_no_node_is_a_wait() -> None:
    seats = FakeSeats()
    seats.add("c1", "linux")
    nodes = static_nodes(seats, lab=["linux"], other=["windows"])
    key = RequestKey(controller="main", queue_id=1, since_ms=1, task="job/a/")
    first = await nodes.place("lab", "maven-1", key, ("maven", "linux"), ())
    assert (await nodes.place("lab", "maven-1", key, (), ())).node == first.node
    seat = seats.nodes["c1"].seat
    assert seat is not None
    assert seat.labels == ("maven",)  # what the node has already is not taken from it afterwards
    with pytest.raises(NoRoom, match="none of its nodes is clean and free: c1 is reserved"):
        await nodes.place("lab", "maven-2", replace(key, queue_id=2), (), ())
    assert nodes.room("other").reason == "it has no node"
    nodes.close()


async def test_a_node_that_somebody_deleted_holds_no_agent_up(make: Callable[..., StaticHouse]) -> None:
    seats = FakeSeats()
    seats.add("c1")
    static = make(seats)
    item = static.fake.queue()
    await static.reserved("c1")
    seats.gone = ControllerError("there is no c1", code=404)
    static.fake.cancel(item)
    await static.house.until(lambda: not static.house.desk.agents)


async def test_without_administer_it_goes_on_by_labels() -> None:
    script, plain = FakeSeats(refuse=ControllerError("no", code=403)), FakeSeats(exclusive=False)
    plain.add("c1")
    nodes = static_nodes(script, plain)
    key = RequestKey(controller="main", queue_id=1, since_ms=1, task="job/a/")
    placed = await nodes.place("lab", "maven-1", key, ("maven",), ())
    await nodes.begun(placed, None)
    cleaner: Any = nodes._cleaner
    assert cleaner.told == [("c1", "agent-maven-1")]  # a use, although nobody saw which build
    nodes.close()


async def test_nodes_that_cannot_be_listed_are_told_as_what_the_controllers_builds_wait_for(
    make: Callable[..., StaticHouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr("provisioner.static.port.log", log)
    seats = FakeSeats(refuse=ControllerError("controller main answers 500", code=500))
    seats.add("c1")
    static = make(seats)
    house = static.house
    item = static.fake.queue()
    await house.until(lambda: house.desk.controllers["main"].unseen and house.desk.book.get(item.key))
    for _ in range(3):
        static.fake.show()
        await asyncio.sleep(0.02)
    why = "controller main does not show all that is ours there: its static nodes: controller main answers 500"
    told = Outlook(house.engine).explain_item(item.key.queue_id)
    assert why in told.reasons
    assert "an agent is started as soon as main shows it" in told.next_step
    ready = readiness(house.engine)
    assert not ready.ok
    assert ready.detail["controllers"] == {"main": "its static nodes: controller main answers 500"}
    assert not house.desk.agents
    warned = [c.kwargs["problem"] for c in log.calls if (c.method_name, c.args) == ("warning", ("static.unknown",))]
    assert warned == ["controller main answers 500"]
    seats.refuse = None
    static.fake.show()
    await house.until(lambda: house.desk.agents, "it is placed")
    assert [c.method_name for c in log.calls if c.args == ("static.known",)] == ["info"]
    assert not house.desk.controllers["main"].unseen
