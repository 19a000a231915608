"""Schedulers, builds and people at the same controller, interleaved at every single request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from provisioner.cleanup.scheduler import FOLLOW_S, Scheduler
from provisioner.cleanup.state import Act, NodeState
from provisioner.model.errors import ControllerError
from tests.unit.cleanup.cleanup_world import JOB_URL, KilledError, World, refused

both_ways = pytest.mark.parametrize("script", [False, True], ids=["plain", "script"])


def at_request(world: World, place: int, do: Callable[[], None]) -> None:
    """Do something ahead of one of the next requests, once."""
    left = place

    def before(_what: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            world.before = lambda _what: None
            do()

    world.before = before


def made_clean(*, script: bool) -> World:
    world = World()
    world.add("a", "x cleanable y")
    scheduler = world.scheduler(script=script)
    for _ in range(20):
        scheduler.one_pass()
        world.sleep(3)
        if world.nodes["a"].running:
            world.end_build("a")
    assert world.nodes["a"].labels == ("x", "cleanable", "y", "clean")
    return world


@both_ways
def test_a_node_goes_from_new_over_dirty_to_clean(script: bool) -> None:
    world = made_clean(script=script)
    assert len(world.builds) == 1
    rows = world.scheduler(script=script).one_pass()
    assert [(row.state, row.act) for row in rows] == [(NodeState.CLEAN, Act.WAIT)]


def deaf(world: World, requests: range) -> None:
    """The controller does not answer these of the next requests."""
    asked = -1

    def before(_what: str) -> None:
        nonlocal asked
        asked += 1
        if asked in requests:
            raise ControllerError("no answer within 30 s", retryable=True)
        if world.nodes["a"].running:
            world.end_build("a")

    world.before = before


@both_ways
def test_once_outlives_a_controller_that_does_not_answer_for_a_moment(script: bool) -> None:
    for first in range(5, 21):  # the first look is through by then
        world = World()
        world.add("a", "cleanable")
        deaf(world, range(first, first + 2))
        (row,) = world.scheduler(script=script).once()
        assert row.state is NodeState.CLEAN, first


def test_once_does_not_wait_for_a_controller_that_never_answers() -> None:
    world = World()
    world.add("a", "cleanable")
    for requests, passes in ((range(99), 1), (range(10, 99), 3)):
        deaf(world, requests)
        before_ms = world.now_ms
        with pytest.raises(ControllerError, match="no answer"):
            world.scheduler().once()
        assert (world.now_ms - before_ms) / 1000 <= FOLLOW_S * (passes + 3)


@both_ways
def test_nobody_else_is_touched(script: bool) -> None:
    world = World()
    for name in ("Built-In Node", "cleanable", "other"):
        world.add(name, "cleanable" if name == "Built-In Node" else "linux")
    before = {name: node.xml for name, node in world.nodes.items()}
    assert world.scheduler(script=script).one_pass() == ()
    assert before == {name: node.xml for name, node in world.nodes.items()}
    assert not [what for what in world.asked if what.startswith("POST")]


def test_a_plan_changes_nothing() -> None:
    world = World()
    world.add("a", "cleanable")
    (row,) = world.scheduler().plan()
    assert (row.act, row.outcome) == (Act.MARK_DIRTY, "")
    assert not [what for what in world.asked if what.startswith("POST")]


@both_ways
@pytest.mark.parametrize("place", range(16))
def test_a_person_saves_the_form_between_any_two_requests_and_keeps_the_edit(script: bool, place: int) -> None:
    world = World()
    world.add("a", "x cleanable y")
    writes = 1 if script else 2  # the request right after which the node is written

    def edit() -> None:
        world.relabel("a", " ".join([*world.nodes["a"].labels, "new"]))

    # ahead of the writing request itself no reader can know: that is the window that plain REST has
    at_request(world, place, edit)
    window = []
    plain_before = world.before
    world.before = lambda what: (window.append(what), plain_before(what))[1]  # type: ignore[func-returns-value]
    world.scheduler(script=script).one_pass()
    edited_at = window[place] if place < len(window) else ""
    if not script and edited_at == "POST computer/a/config.xml":
        return
    assert writes
    assert ("new" in world.nodes["a"].labels) == (place < len(window))
    assert "dirty" in world.nodes["a"].labels


@both_ways
@pytest.mark.parametrize("place", range(14))
def test_two_schedulers_ask_for_one_cleaning_wherever_they_meet(script: bool, place: int) -> None:
    world = World()
    world.add("a", "cleanable dirty")
    other = world.scheduler(script=script)

    def meanwhile() -> None:
        other.one_pass()
        world.turn()  # what need not wait begins

    at_request(world, place, meanwhile)
    world.scheduler(script=script).one_pass()
    assert (len(world.queue), len(world.builds)) == (1, 0)
    world.sleep(6)
    assert len(world.builds) == 1
    world.scheduler(script=script).one_pass()
    other.one_pass()
    assert (len(world.queue), len(world.builds)) == (0, 1)


@both_ways
@pytest.mark.parametrize("place", range(5))
def test_a_cleaning_that_begins_during_a_look_is_one(script: bool, place: int) -> None:
    world = World()
    world.add("a", "cleanable dirty")
    scheduler = world.scheduler(script=script)
    scheduler.one_pass()
    at_request(world, place, lambda: world.sleep(6))
    (row,) = scheduler.one_pass()
    assert (row.state, row.act, row.outcome) == (NodeState.CLEANING, Act.WAIT, "")
    assert len(world.builds) + len(world.queue) == 1


def test_a_scheduler_that_was_held_up_does_not_ask_any_more() -> None:
    world = World()
    world.add("a", "cleanable dirty")

    def stall() -> None:
        world.now_ms += 3_000

    at_request(world, 5, stall)  # in its second look
    (row,) = world.scheduler().one_pass()
    assert row.outcome == "changed meanwhile"
    assert not world.queue


@both_ways
@pytest.mark.parametrize("pause_s", [0.1, 1])
@pytest.mark.parametrize("place", range(18))
def test_a_success_is_not_believed_twice_wherever_a_scheduler_was_held_up(
    script: bool, pause_s: float, place: int
) -> None:
    """One scheduler is about to make the node clean; meanwhile another does, a build runs, and it is dirty again."""
    world = World()
    world.add("a", "cleanable dirty")
    first, other = world.scheduler(script=script), world.scheduler(script=script)
    first.one_pass()
    world.sleep(6)
    world.sleep(3)
    world.end_build("a")
    next_request: list[str] = []

    def meanwhile() -> None:
        other.one_pass()
        if "clean" in world.nodes["a"].labels:
            world.sleep(pause_s)
            assert world.start_build("a", "job/x/1/")
            world.sleep(pause_s)
            other.one_pass()
            world.end_build("a")

    at_request(world, place, meanwhile)
    hook = world.before

    def before(what: str) -> None:
        next_request.append(what)
        hook(what)

    world.before = before
    first.one_pass()
    held_up_at = next_request[place] if place < len(next_request) else ""
    if "submitDescription" in held_up_at and pause_s < 1:
        return  # all of that within the one request with which plain REST writes a note: docs/cleanup.md
    if world.nodes["a"].used:
        # at the worst the label stands for the time of two requests; now it is gone
        assert "clean" not in world.nodes["a"].labels


@both_ways
def test_an_old_form_makes_no_node_clean(script: bool) -> None:
    world = made_clean(script=script)
    form = " ".join(world.nodes["a"].labels)
    world.start_build("a", "job/x/1/")
    scheduler = world.scheduler(script=script)
    scheduler.one_pass()
    world.relabel("a", form)
    world.end_build("a")
    scheduler.one_pass()
    assert "clean" not in world.nodes["a"].labels


def test_without_the_permission_to_describe_builds_a_used_node_is_still_taken_out() -> None:
    world = made_clean(script=False)
    world.start_build("a", "job/x/1/")

    def refuse(what: str) -> None:
        if "submitDescription" in what:
            raise refused(what)

    world.before = refuse
    (row,) = world.scheduler().one_pass()
    assert (row.failed, "may not" in row.outcome) == (True, True)
    assert "clean" not in world.nodes["a"].labels
    world.end_build("a")
    for _ in range(5):
        world.scheduler().one_pass()
    assert "clean" not in world.nodes["a"].labels


def test_without_administer_it_goes_on_by_plain_rest() -> None:
    world = World()
    world.add("a", "cleanable")

    def refuse(what: str) -> None:
        if what.startswith("script"):
            raise refused(what)

    world.before = refuse
    scheduler = world.scheduler(script=True)
    scheduler.one_pass()
    assert not scheduler.atomic
    assert "dirty" in world.nodes["a"].labels


@both_ways
def test_failures_end_in_a_quarantine_that_recover_ends(script: bool) -> None:
    world = World()
    world.add("a", "cleanable")
    scheduler = world.scheduler(script=script)
    for _ in range(30):
        scheduler.one_pass()
        world.sleep(3)
        if world.nodes["a"].running:
            world.end_build("a", "FAILURE")
    node = world.nodes["a"]
    assert len(world.builds) == 3
    assert (
        node.held
        == f"[provisioner] quarantine: 3 cleanings in a row failed; its cleaning #3 ended as FAILURE: {JOB_URL}3/"
    )
    assert "clean" not in node.labels
    scheduler.recover("a")
    assert node.held is None
    for _ in range(10):
        scheduler.one_pass()
        world.sleep(3)
        if node.running:
            world.end_build("a")
    assert "clean" in node.labels


@pytest.mark.parametrize("place", range(10))
def test_two_who_recover_a_node_at_once_leave_it_back_or_in_quarantine(place: int) -> None:
    """By plain REST a second toggle takes it offline again: with its reason then, never without one."""
    world = World()
    node = world.add("a", "cleanable dirty")
    node.held = "[provisioner] quarantine: x"

    def other() -> None:
        with contextlib.suppress(ControllerError):
            world.scheduler().recover("a")

    at_request(world, place, other)
    with contextlib.suppress(ControllerError):
        world.scheduler().recover("a")
    assert node.held in {None, "[provisioner] quarantine: x"}


def test_a_recovery_that_another_has_undone_is_not_told_as_done() -> None:
    world = World()
    node = world.add("a", "cleanable dirty")
    node.held = "[provisioner] quarantine: x"

    def again(what: str) -> None:
        if what.endswith("toggleOffline"):
            world.before = lambda _what: None
            node.held = None  # another was quicker, and this one undoes it

    world.before = again
    with pytest.raises(ControllerError, match="changed by somebody else"):
        world.scheduler().recover("a")
    assert node.held == "[provisioner] quarantine: x"


@pytest.mark.parametrize("place", range(12))
def test_two_who_quarantine_a_node_at_once_never_bring_it_back(place: int) -> None:
    world = World()
    node = world.add("a", "cleanable dirty")
    for _ in range(20):
        scheduler = world.scheduler(retries=0)
        scheduler.one_pass()
        world.sleep(3)
        if node.running:
            world.end_build("a", "FAILURE")
            break

    def other() -> None:
        world.scheduler(retries=0).one_pass()

    at_request(world, place, other)
    world.scheduler(retries=0).one_pass()
    assert node.held is not None
    assert node.held.startswith("[provisioner] quarantine: its cleaning #1 ended as FAILURE")


def test_only_our_own_quarantine_is_ended() -> None:
    world = World()
    node = world.add("a", "cleanable dirty")
    node.held = "new disk"
    with pytest.raises(ControllerError, match="a is not in quarantine"):
        world.scheduler().recover("a")
    with pytest.raises(ControllerError, match="b is no node with the label cleanable"):
        world.scheduler().recover("b")
    assert node.held == "new disk"


def hour(world: World) -> None:
    world.now_ms += 3_700_000


def queued(world: World, *names: str) -> Scheduler:
    """Cleanings that are asked for and have not begun."""
    for name in names:
        world.add(name, "cleanable dirty")
    scheduler = world.scheduler()
    scheduler.one_pass()
    assert len(world.queue) == len(names)
    return scheduler


def test_while_jenkins_shuts_down_nothing_is_asked_for_and_no_node_is_taken_offline() -> None:
    world = World()
    scheduler = queued(world, "a")
    world.add("b", "cleanable dirty")
    world.quieting_down = True
    for _ in range(3):
        hour(world)
        rows = scheduler.one_pass()
        assert [row.act for row in rows] == [Act.WAIT, Act.WAIT]
    world.quieting_down = False
    # looked at before Jenkins has looked at its queue again
    scheduler.one_pass()
    assert world.nodes["a"].held is None
    world.sleep(1)
    assert world.nodes["a"].running


def test_the_first_looks_after_a_controller_was_away_for_an_hour_take_no_node_offline() -> None:
    world = World()
    scheduler = queued(world, "a")
    world.sleep(6)
    assert world.nodes["a"].running
    world.end_build("a", "FAILURE")
    scheduler.one_pass()
    world.now_ms += 6_000
    scheduler.one_pass()  # free, and seen so
    hour(world)
    world.session = "2"
    for each in (scheduler, world.scheduler()):
        each.one_pass()
        assert world.nodes["a"].held is None
    world.sleep(1)
    assert world.nodes["a"].running


def test_where_one_cleaning_hangs_in_a_job_that_forbids_two_its_neighbour_stays_in_service() -> None:
    world = World(concurrent=False)
    scheduler = queued(world, "a", "b")
    world.sleep(6)
    hung = next(name for name, node in world.nodes.items() if node.running)
    other = "b" if hung == "a" else "a"
    hour(world)
    scheduler.one_pass()
    assert world.nodes[hung].running is None  # ended
    assert world.nodes[other].held is None
    scheduler.one_pass()
    assert world.nodes[other].held is None
    world.sleep(1)
    assert world.nodes[other].running


def test_a_cleaning_that_never_comes_to_its_free_node_ends_in_quarantine() -> None:
    world = World(unable=True)
    scheduler = queued(world, "a")
    hour(world)
    scheduler.one_pass()
    assert world.nodes["a"].held is None
    world.sleep(61)
    scheduler.one_pass()
    held = world.nodes["a"].held
    assert held is not None
    assert held.startswith("[provisioner] quarantine: its cleaning has waited in the queue for 62 min, although")
    assert not world.queue


def test_a_cleaning_that_does_not_end_when_it_is_told_to_ends_in_quarantine() -> None:
    world = World()
    scheduler = queued(world, "a")
    world.sleep(6)
    build = world.builds[0]
    # told to end, it is as it was
    world.before = lambda what: build.update(building=not what.endswith("/stop"))
    hour(world)
    assert [row.act for row in scheduler.one_pass()] == [Act.STOP]
    assert world.nodes["a"].held is None
    hour(world)
    # whoever was not there before tells it first
    assert [row.act for row in world.scheduler().one_pass()] == [Act.STOP]
    assert [row.act for row in scheduler.one_pass()] == [Act.QUARANTINE]
    held = world.nodes["a"].held
    assert held is not None
    assert "its cleaning #1 has run for 2 h and does not end when it is told to" in held


def test_once_follows_its_cleanings_to_the_end() -> None:
    world = World()
    for name in "abc":
        world.add(name, "cleanable")
    ends = world.sleep

    def sleep(seconds: float) -> None:
        ends(seconds)
        if round(world.now_ms / 1000) % 7:  # a cleaning is seen under way for a while
            return
        for name, node in world.nodes.items():
            if node.running:
                world.end_build(name, "FAILURE" if name == "b" else "SUCCESS")

    scheduler = world.scheduler(retry_after_s=600)
    scheduler._sleep = sleep
    told: list[str] = []
    rows = scheduler.once(lambda row: told.append(f"{row.node} {row.act}"))
    assert [row.state for row in rows] == [NodeState.CLEAN, NodeState.FAILED, NodeState.CLEAN]
    assert told.count("a mark-clean") == 1
    assert len(world.builds) == 3


@pytest.mark.parametrize("place", range(18))
def test_a_used_node_stays_barred_wherever_a_scheduler_is_killed(place: int) -> None:
    """Also between the note that its cleaning is used up and the change of its labels."""
    world = made_clean(script=True)
    world.scheduler(script=True).one_pass()
    assert world.takes_clean_work("a")
    world.sleep(1)
    world.start_build("a", "job/x/1/")
    world.sleep(1)
    world.end_build("a")

    def check(_what: str) -> None:
        assert not world.takes_clean_work("a")

    def kill() -> None:
        raise KilledError

    at_request(world, place, kill)
    with contextlib.suppress(KilledError):
        world.scheduler(script=True).one_pass()
    world.before = check
    world.scheduler(script=True).one_pass()
    world.scheduler(script=True).one_pass()


@pytest.mark.parametrize("place", range(5))
def test_an_older_look_takes_no_guard_from_a_node_that_another_has_made_clean(place: int) -> None:
    world = World()
    world.add("a", "cleanable dirty")
    first, other = world.scheduler(script=True), world.scheduler(script=True)
    first.one_pass()
    world.sleep(6)
    world.end_build("a")
    at_request(world, place, lambda: (first.one_pass(), None)[1])
    other.one_pass()
    world.before = lambda _what: None
    assert "clean" in world.nodes["a"].labels
    assert world.takes_clean_work("a")
    world.sleep(3)
    assert world.start_build("a", "job/x/1/")
    world.sleep(3)
    world.end_build("a")
    assert not world.takes_clean_work("a")


def test_a_person_who_saves_a_used_node_opens_it_to_nobody() -> None:
    world = made_clean(script=True)
    world.scheduler(script=True).one_pass()
    world.sleep(3)
    world.start_build("a", "job/x/1/")
    world.relabel("a", " ".join([*world.nodes["a"].labels, "new"]))
    world.end_build("a")
    assert not world.takes_clean_work("a")  # nobody has looked since


def test_what_the_script_console_left_is_in_no_plain_schedulers_way() -> None:
    """Administer was taken away; the guard is still in the controller."""
    world = made_clean(script=True)
    plain = world.scheduler(script=False)
    for _ in range(2):
        world.sleep(3)
        assert world.takes_clean_work("a")
        world.start_build("a", "job/x/1/")
        plain.one_pass()
        world.sleep(3)
        world.end_build("a")
        for _ in range(6):
            plain.one_pass()
            world.sleep(3)
            if world.nodes["a"].running:
                world.end_build("a")
        assert "clean" in world.nodes["a"].labels


# -- everything at once


class Life(RuleBasedStateMachine):
    """Two schedulers that are killed anywhere, builds on every node, persons, failures; one way for all."""

    script: bool

    @initialize(script=st.booleans())
    def begin(self, script: bool) -> None:
        self.world = World()
        self.world.add("Built-In Node", "cleanable")
        self.world.add("a", "x cleanable y")
        self.world.add("b", "cleanable")
        self.world.add("other", "dirty linux")
        self.both = [self.world.scheduler(script=script, at_once=1 + i) for i in range(2)]
        self.script = script
        self.held: dict[str, str | None] = {}

    @rule(which=st.integers(0, 1), kill_at=st.none() | st.integers(0, 25))
    def one_pass(self, which: int, kill_at: int | None) -> None:
        if kill_at is not None:

            def kill() -> None:
                raise KilledError

            at_request(self.world, kill_at, kill)
        try:
            self.both[which].one_pass()
        except KilledError:
            pass
        finally:
            self.world.before = lambda _what: None

    @rule(place=st.integers(0, 25))
    def one_pass_within_the_other(self, place: int) -> None:
        at_request(self.world, place, lambda: (self.both[1].one_pass(), None)[1])
        self.both[0].one_pass()
        self.world.before = lambda _what: None

    @rule(name=st.sampled_from("ab"), seen=st.booleans())
    def a_build_runs(self, name: str, seen: bool) -> None:
        """Where `clean` is asked for the label must be true; a build on any other node soils it."""
        if self.world.takes_clean_work(name) and "cleanable" in self.world.nodes[name].labels:
            assert not self.world.nodes[name].used, f"{name} is not clean: {self.world}"
        if self.world.start_build(name, f"job/x/{self.world.now_ms}/"):
            self.world.sleep(3)  # longer than an executor may need to become free after a cleaning
            if seen or not self.script:  # plain REST knows only what it sees
                self.both[0].one_pass()
            self.world.end_build(name)
            if not seen and not self.script:
                # the next look of anybody, before the next build
                self.world.sleep(1)
                self.both[1].one_pass()

    @rule(result=st.sampled_from(["SUCCESS", "SUCCESS", "FAILURE", "ABORTED"]))
    def cleanings_end(self, result: str) -> None:
        self.world.sleep(6)
        for name, node in self.world.nodes.items():
            if node.running:
                self.world.end_build(name, result)

    @rule(name=st.sampled_from("ab"))
    def a_person_toggles(self, name: str) -> None:
        node = self.world.nodes[name]
        node.held = "a person" if node.held is None else None

    @rule(name=st.sampled_from("ab"), label=st.sampled_from(["dirty", "clean", "cleanable"]))
    def a_person_takes_a_label(self, name: str, label: str) -> None:
        gone = {label}
        if label == "cleanable" and not self.script:
            gone |= {"clean", "dirty"}  # what runs while nobody looks is not known to plain REST
        self.world.relabel(name, " ".join(x for x in self.world.nodes[name].labels if x not in gone))

    @rule(name=st.sampled_from("ab"))
    def a_person_gives_the_label_back(self, name: str) -> None:
        if "cleanable" not in self.world.nodes[name].labels:
            self.world.relabel(name, " ".join([*self.world.nodes[name].labels, "cleanable"]))
            self.both[0].one_pass()

    @invariant()
    def only_what_is_ours_changes(self) -> None:
        nodes = self.world.nodes
        assert nodes["Built-In Node"].labels == ("cleanable",)
        assert nodes["other"].labels == ("dirty", "linux")
        assert [x for x in nodes["a"].labels if x in "xy"] == ["x", "y"]
        assert all("by a person" in node.xml for node in nodes.values())

    @invariant()
    def nothing_is_cleaned_twice_at_once(self) -> None:
        for name in self.world.nodes:
            building = [b for b in self.world.builds if b["node"] == name and b["building"]]
            assert len(building) + sum(1 for item in self.world.queue if item["node"] == name) <= 1


Life.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase
