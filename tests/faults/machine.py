"""Anything may happen, in any order, while a sidecar serves builds; a Hypothesis state machine tells the story."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from provisioner.controller.port import BridgeMode
from provisioner.lifecycle.operations import Operations, Refused, Unknown
from provisioner.model.errors import ControllerError, LaunchError, Reason
from provisioner.model.queue import ItemKind
from provisioner.sidecar.reload import apply_settings
from tests.faults.estate import Broken, Estate
from tests.faults.mortal import Death, Killed, Reaper

SECONDS = st.sampled_from([0.1, 1.0, 3.0, 10.0, 40.0])
PICK = st.integers(min_value=0, max_value=7)

#: How a controller that is there answers all the same, as the client tells it.
ODD_ANSWERS = (
    ControllerError("connection refused", retryable=True),
    ControllerError("answered 503", code=503, retryable=True),
    ControllerError("answered 500", code=500, retryable=True),
    ControllerError("the answer is not JSON", code=200, retryable=True),
    ControllerError("no answer within 10 s", retryable=True),
)


class LifeOfAgents(RuleBasedStateMachine):
    """A sidecar, a controller, two engines, and everything that can happen to them."""

    @initialize(mode=st.sampled_from([BridgeMode.SCRIPT, BridgeMode.SCRIPT, BridgeMode.OFF]))
    def begin(self, mode: BridgeMode) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="provisioner-machine-")
        self.estate = Estate(Path(self.folder.name), mode=mode)
        self.estate.__enter__()
        self.bridged_only = mode is not BridgeMode.OFF
        self.records_lost = False
        self.estate.start()
        self.estate.pass_s(1)

    # people and their builds

    @rule(
        label=st.sampled_from(["maven", "maven", "maven", "node", "nobody"]),
        kind=st.sampled_from([ItemKind.FREESTYLE, ItemKind.PIPELINE]),
        build_s=st.sampled_from([0.4, 2.0, 15.0, 90.0]),
    )
    def queue(self, label: str, kind: ItemKind, build_s: float) -> None:
        self.estate.jenkins.queue(label, kind, build_s)
        self._pass(0.2)

    @rule(number=st.integers(2, 8))
    def queue_many(self, number: int) -> None:
        for _ in range(number):
            self.estate.jenkins.queue()

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        if works := [w for w in self.estate.jenkins.works if w.item is not None]:
            self.estate.jenkins.cancel(works[pick % len(works)])

    @rule(pick=PICK, label=st.sampled_from(["maven", "node", "nobody"]))
    def a_jobs_label_is_edited(self, pick: int, label: str) -> None:
        if works := [w for w in self.estate.jenkins.works if w.item is not None]:
            self.estate.jenkins.edit_label(works[pick % len(works)], label)

    @rule(pick=PICK)
    def a_static_node_takes_an_item(self, pick: int) -> None:
        if works := [w for w in self.estate.jenkins.works if w.item is not None]:
            self.estate.jenkins.take_elsewhere(works[pick % len(works)])

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self._pass(seconds)

    # agents that misbehave

    @rule(seconds=st.sampled_from([0.5, 2.0, 30.0, 75.0, 1e9]))
    def agents_connect_slowly(self, seconds: float) -> None:
        self.estate.jenkins.connect_s = seconds

    @rule(pick=PICK)
    def an_agent_loses_its_connection(self, pick: int) -> None:
        if online := [n for n, v in self.estate.jenkins.nodes.items() if v.online]:
            self.estate.jenkins.disconnect(online[pick % len(online)])

    @rule(pick=PICK, exit_code=st.sampled_from([0, 1, 137]))
    def an_instance_dies(self, pick: int, exit_code: int) -> None:
        for engine in self.estate.engines.values():
            if names := list(engine.instances):
                name = names[pick % len(names)]
                self.estate.jenkins.excuse(name)
                engine.end(name, exit_code=exit_code, out_of_memory=exit_code == 137)
                return

    @rule(pick=PICK)
    def a_person_removes_a_container(self, pick: int) -> None:
        if names := list(self.estate.box.instances):
            self.estate.jenkins.excuse(names[pick % len(names)])
            self.estate.box.vanish(names[pick % len(names)])

    @rule(pick=PICK)
    def a_person_deletes_a_node(self, pick: int) -> None:
        if names := list(self.estate.jenkins.nodes):
            self.estate.jenkins.delete_node(names[pick % len(names)])

    # the controller

    @rule(crash=st.booleans())
    def the_controller_restarts(self, crash: bool) -> None:
        if self.estate.jenkins.down is None:
            self.estate.jenkins.restart(crash=crash)

    @rule(mode=st.sampled_from([BridgeMode.SCRIPT, BridgeMode.OFF]))
    def the_controller_comes_up_in_another_mode(self, mode: BridgeMode) -> None:
        if self.estate.jenkins.down is None and mode is not self.estate.jenkins.mode:
            self.bridged_only = False
            self.estate.jenkins.change_mode(mode)

    @rule(quiet=st.booleans())
    def it_prepares_to_shut_down(self, quiet: bool) -> None:
        self.estate.jenkins.quieting = quiet

    @rule(error=st.sampled_from(ODD_ANSWERS), seconds=SECONDS)
    def the_controller_is_out_of_reach(self, error: ControllerError, seconds: float) -> None:
        self.estate.jenkins.outage(error)
        self._pass(seconds)

    @rule()
    def the_controller_is_back(self) -> None:
        self.estate.jenkins.recover()

    @rule(mute=st.booleans())
    def events_are_lost(self, mute: bool) -> None:
        self.estate.jenkins.mute = mute

    @rule(pick=PICK, count=st.integers(1, 5))
    def old_events_come_again(self, pick: int, count: int) -> None:
        for seen in self.estate.jenkins.history[-1 - pick :][:count]:
            self.estate.jenkins.repeat(seen)

    @rule(seconds=SECONDS, order=st.lists(PICK, max_size=12))
    def events_come_late_twice_and_in_disorder(self, seconds: float, order: list[int]) -> None:
        self.estate.jenkins.hold_events()
        self._pass(seconds)
        self.estate.jenkins.let_events_go(order)

    @rule(serves=st.booleans())
    def a_static_node_could_serve_everything(self, serves: bool) -> None:
        self.estate.jenkins.static_serves = serves

    # the engines

    @rule(name=st.sampled_from(["box", "den"]), hangs=st.booleans())
    def an_engine_goes(self, name: str, hangs: bool) -> None:
        engine = self.estate.engines[name]
        if hangs:
            engine.hanging = True
        else:
            engine.outage()

    @rule(name=st.sampled_from(["box", "den"]))
    def an_engine_is_back(self, name: str) -> None:
        self.estate.engines[name].recover()

    @rule(name=st.sampled_from(["box", "den"]), complete=st.booleans())
    def an_engine_shows_only_a_part(self, name: str, complete: bool) -> None:
        self.estate.engines[name].complete = complete

    @rule(reason=st.sampled_from([None, None, Reason.REGISTRY_ERROR, Reason.CREATE_REJECTED, Reason.IMAGE_NOT_FOUND]))
    def launches_fail(self, reason: Reason | None) -> None:
        self.estate.box.fail_with = None if reason is None else LaunchError(f"it says {reason.value}", reason=reason)

    @rule(seconds=st.sampled_from([0.0, 2.0, 20.0]))
    def pulls_take_time(self, seconds: float) -> None:
        self.estate.box.pull_s = seconds

    # operators

    @rule(pick=PICK, seconds=SECONDS)
    def hold(self, pick: int, seconds: float) -> None:
        if (name := self._agent(pick)) is not None:
            self._order(lambda do: do.hold(name, for_s=seconds))

    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        if (name := self._agent(pick)) is not None:
            self._order(lambda do: do.release(name))

    @rule(pick=PICK)
    def delete_now(self, pick: int) -> None:
        if (name := self._agent(pick)) is not None:
            self.estate.jenkins.excuse(name)
            self._order(lambda do: do.delete_now(name))

    @rule(name=st.sampled_from(["box", "den"]), drained=st.booleans())
    def drain(self, name: str, drained: bool) -> None:
        if self._alive:
            self._order(lambda do: do.drain(name) if drained else do.resume(name))

    @rule(max_agents=st.integers(3, 5), retries=st.integers(0, 2), name=st.sampled_from(["maven", "maven2"]))
    def reload(self, max_agents: int, retries: int, name: str) -> None:
        if not self._alive:
            return
        old = self.estate.settings
        box = next(p for p in old.providers if p.name == "box")
        if max_agents < box.max_agents:
            return  # what is there already may be more
        providers = tuple(p.model_copy(update={"max_agents": max_agents}) if p is box else p for p in old.providers)
        maven, node = old.templates
        changed = maven.model_copy(update={"retries": retries, "name": name})
        templates = (changed, node.model_copy(update={"retries": retries}))
        self.estate.settings = old.model_copy(update={"providers": providers, "templates": templates})
        apply_settings(self.estate.engine, self.estate.settings)

    @rule(by_s=st.sampled_from([-7200.0, -30.0, 3600.0]))
    def the_wall_clock_jumps(self, by_s: float) -> None:
        self.estate.clock.skew_s += by_s

    # the sidecar

    @rule(seconds=SECONDS)
    def kill(self, seconds: float) -> None:
        self.estate.kill()
        self._pass(seconds)

    @rule()
    def revive(self) -> None:
        if self.estate.life is None:
            self.estate.start()
            self._pass(1)

    @rule(after=st.integers(0, 60), death=st.sampled_from([Death.NOW, Death.LATE]), seconds=SECONDS)
    def revive_for_a_short_life(self, after: int, death: Death, seconds: float) -> None:
        self.estate.kill()
        self.estate.start(_dies_after(after, death))
        self._pass(seconds)

    @precondition(lambda self: self.estate.life is None)
    @rule()
    def the_records_are_lost(self) -> None:
        self.records_lost = True
        self.estate.lose_state()

    # what must be true

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "estate"):
            return
        estate = self.estate
        estate.look()
        if self.bridged_only:
            taken = Counter(node for work in estate.jenkins.works for node in work.starts if node != "static")
            if any(count > 1 for count in taken.values()):
                raise Broken(f"a node took more than one build: {taken}\n{estate.picture()}")
        if self._alive and not self.records_lost:
            there = {*estate.jenkins.nodes, *(n for e in estate.engines.values() for n in (*e.instances, *e.volumes))}
            unknown = [name for name in there if estate.store.agent(name) is None]
            if unknown:
                raise Broken(f"{unknown} are there without a record\n{estate.picture()}")

    def teardown(self) -> None:
        if not hasattr(self, "estate"):
            return
        try:
            self._heal()
            self.estate.finish(3600)
        finally:
            self.estate.__exit__(None, None, None)
            self.folder.cleanup()

    # how

    def _heal(self) -> None:
        """All is well again; what follows is time."""
        estate = self.estate
        for engine in estate.engines.values():
            engine.recover()
            engine.complete, engine.fail_with, engine.pull_s = True, None, 0.0
        jenkins = estate.jenkins
        jenkins.connect_s, jenkins.mute, jenkins.quieting, jenkins.static_serves = 2.0, False, False, False
        for node in jenkins.nodes.values():
            node.connects_at_s = None  # also of those that were slow until now
        if jenkins.held is not None:
            jenkins.let_events_go()
        jenkins.recover()
        for work in jenkins.works:
            if work.label == "nobody":
                jenkins.cancel(work)
        if estate.life is None or estate.dead:
            estate.kill()
            estate.start()
            estate.pass_s(1)
        elif estate.life is not None:
            estate.life.spare()
        for name in estate.engines:
            self._order(lambda do, name=name: do.resume(name))  # type: ignore[misc]
        for name in tuple(estate.desk.agents):  # a hold lasts by the wall clock, which may have been set back
            self._order(lambda do, name=name: do.release(name))  # type: ignore[misc]

    @property
    def _alive(self) -> bool:
        return self.estate.life is not None and not self.estate.dead

    def _agent(self, pick: int) -> str | None:
        names = list(self.estate.desk.agents) if self._alive else []
        return names[pick % len(names)] if names else None

    def _order(self, order: Callable[[Operations], object]) -> None:
        """An operator says so; the sidecar may refuse, or die of it."""
        with suppress(Refused, Unknown, Killed):
            self.estate.order(order)

    def _pass(self, seconds: float) -> None:
        self.estate.pass_s(seconds)


def _dies_after(points: int, death: Death) -> Reaper:
    left = points

    def reaper(_point: str) -> Death:
        nonlocal left
        left -= 1
        return death if left < 0 else Death.NOT

    return reaper
