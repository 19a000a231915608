from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.cleanup.facts import Cleaning, Disk, NodeFacts, Note, Policy, Queued, Word
from provisioner.cleanup.state import (
    MOVES,
    Act,
    Decision,
    NodeState,
    decide,
    evidence,
    failures,
    misspelt,
    running,
)
from provisioner.model.errors import IllegalActError

NOW = 10_000_000
POLICY = Policy(retry_after_s=60)
STARTS = {Act.START, Act.RETRY}


def cleaning(number: int, result: str | None = "SUCCESS", note: Word | None = None, **changes: object) -> Cleaning:
    made = Cleaning(
        number=number,
        url=f"job/c/{number}/",
        started_ms=NOW - 900_000 + number * 1000,
        ended_ms=None if result is None else NOW - 900_000 + number * 1000 + 500,
        result=result,
        description=str(Note(word=note, idle_mark_ms=5)) if note else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def node(labels: str = "cleanable dirty", *cleanings: Cleaning, **changes: object) -> NodeFacts:
    made = NodeFacts(name="n", labels=frozenset(labels.split()), cleanings=tuple(reversed(cleanings)))
    return replace(made, **changes)  # type: ignore[arg-type]


def overdue(for_s: float) -> Cleaning:
    return cleaning(1, None, started_ms=NOW - 7_201_000, overdue_s=for_s)


def waiting(**changes: object) -> Queued:
    made = Queued(queue_id=1, since_ms=NOW - 3_601_000, buildable=True)
    return replace(made, **changes)  # type: ignore[arg-type]


def one(facts: NodeFacts, policy: Policy = POLICY) -> Decision:
    (decision,) = decide([facts], NOW, policy)
    return decision


good = cleaning(1, note=Word.CLEAN)


@pytest.mark.parametrize(
    ("facts", "act", "reason"),
    [
        (node("cleanable"), Act.MARK_DIRTY, "neither clean nor dirty"),
        (node("cleanable dirty clean"), Act.MARK_DIRTY, "both"),
        (node(), Act.START, "dirty and idle"),
        (node(connected=False), Act.WAIT, "not connected"),
        (node(runs=("job/x/1/",)), Act.WAIT, "it runs job/x/1/"),
        (node(held="new disk"), Act.WAIT, "a person took it offline (new disk)"),
        (node(queued=(Queued(queue_id=1, since_ms=NOW),)), Act.WAIT, "queued"),
        (node("cleanable dirty", cleaning(1, None)), Act.WAIT, "under way"),
        (node("cleanable dirty", cleaning(1, None, started_ms=NOW - 3_601_000)), Act.STOP, "has run for 60 min"),
        (node("cleanable dirty", overdue(3599)), Act.STOP, "has run for 2 h"),
        (node("cleanable dirty", overdue(3601)), Act.QUARANTINE, "does not end when it is told to: job/c/1/"),
        (node(queued=(waiting(),), runs=("job/x/1/",)), Act.STOP, "waited in the queue"),
        (node(queued=(waiting(),), connected=False), Act.STOP, "waited in the queue"),
        (node(queued=(waiting(free_s=60),)), Act.QUARANTINE, "although the node is free"),
        (node(queued=(waiting(free_s=59),)), Act.WAIT, "although the node is free"),
        (node(queued=(waiting(free_s=60, since_ms=NOW - 3_500_000),)), Act.WAIT, "queued"),
        (
            node(queued=(waiting(buildable=False, why="Build #1 is already in progress"),)),
            Act.WAIT,
            "has waited in the queue for 60 min: Build #1 is already in progress",
        ),
        (node("cleanable dirty", cleaning(1)), Act.MARK_CLEAN, "#1 succeeded"),
        (node("cleanable dirty", cleaning(1), connected=False), Act.WAIT, "not connected"),
        (node("cleanable dirty", cleaning(1, note=Word.SPENT)), Act.START, "dirty and idle"),
        (node("cleanable dirty", cleaning(1), runs=("job/x/1/",)), Act.SPEND, "job/x/1/ ran on it after"),
        (node("cleanable dirty", cleaning(1), idle_since_ms=NOW - 896_000), Act.SPEND, "a build ran on it after"),
        (node("cleanable dirty", cleaning(1), cleaning(2, "FAILURE")), Act.RETRY, "#2 ended as FAILURE; try 2"),
        (node("cleanable dirty", cleaning(1, built_on="m")), Act.RETRY, "ran on m instead"),
        (node("cleanable dirty", cleaning(1, "ABORTED", ended_ms=NOW - 50_000)), Act.WAIT, "tried again in 10 s"),
        (node("cleanable dirty", *(cleaning(n, "FAILURE") for n in (1, 2, 3))), Act.QUARANTINE, "3 cleanings in a row"),
        (node("cleanable dirty", cleaning(1, None), cleaning(2, None)), Act.STOP, "cleaned twice"),
        (node("cleanable clean", cleaning(1)), Act.WAIT, "clean since its cleaning #1"),
        (node("cleanable clean", cleaning(1), idle_since_ms=7), Act.NOTE, "believed"),
        (node("cleanable clean", cleaning(1), idle_since_ms=NOW), Act.MARK_DIRTY, "a build ran on it between"),
        (node("cleanable dirty", cleaning(1, on_node=True)), Act.WAIT, "still has the executor"),
        (node("cleanable dirty", cleaning(1), idle_told=True), Act.WAIT, "still has the executor"),
        (node("cleanable dirty", cleaning(1), idle_told=True, idle_since_ms=7), Act.MARK_CLEAN, "#1 succeeded"),
        (node("cleanable dirty", cleaning(1), idle_since_ms=NOW - 898_000), Act.MARK_CLEAN, "#1 succeeded"),
        (node("cleanable dirty", cleaning(1, built_on="n"), idle_since_ms=NOW - 889_000), Act.MARK_CLEAN, "#1 succ"),
        (node("cleanable dirty", cleaning(1, built_on="n"), idle_since_ms=NOW - 888_000), Act.SPEND, "a build ran on"),
        (node("cleanable dirty", good, idle_since_ms=6), Act.SPEND, "a build ran on it after"),
        (node("cleanable dirty", good, idle_since_ms=5), Act.MARK_CLEAN, "#1 succeeded"),
        (node("cleanable clean", good, idle_since_ms=5), Act.WAIT, "clean since its cleaning #1"),
        (node("cleanable clean", good, idle_since_ms=6), Act.MARK_DIRTY, "a build ran on it between two looks"),
        (node("cleanable clean", good, runs=("job/x/1/",)), Act.MARK_DIRTY, "job/x/1/ ran on it"),
        (node("cleanable clean", cleaning(1, note=Word.SPENT)), Act.MARK_DIRTY, "no cleaning that still counts"),
        (node("cleanable clean", good, cleaning(2, "FAILURE")), Act.MARK_DIRTY, "no cleaning that still counts"),
        (node("cleanable clean"), Act.MARK_DIRTY, "no cleaning that still counts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_case_has_its_act_and_reason(facts: NodeFacts, act: Act, reason: str) -> None:
    decision = one(facts)
    assert (decision.act, reason in decision.reason) == (act, True), decision


def test_a_second_build_soils_where_two_do() -> None:
    policy = replace(POLICY, after_builds=2)
    first = one(node("cleanable clean", good, runs=("job/x/1/",)), policy)
    assert first.act is Act.NOTE
    assert first.note is not None
    assert first.note.uses == ("job/x/1/@5",)
    noted = replace(good, description=str(first.note))
    # the same build, still running, then ended: one use
    assert one(node("cleanable clean", noted, runs=("job/x/1/",)), policy).act is Act.WAIT
    ended = one(node("cleanable clean", noted, idle_since_ms=9), policy)
    assert ended.act is Act.NOTE
    assert ended.note is not None
    assert (ended.note.uses, ended.note.idle_mark_ms) == (("job/x/1/@5",), 9)
    noted = replace(good, description=str(ended.note))
    assert one(node("cleanable clean", noted, idle_since_ms=9), policy).act is Act.WAIT
    # one that nobody saw, and one that is seen
    assert one(node("cleanable clean", noted, idle_since_ms=12), policy).act is Act.MARK_DIRTY
    decision = one(node("cleanable clean", noted, runs=("job/x/2/",)), policy)
    assert (decision.act, decision.reason) == (Act.MARK_DIRTY, "2 builds used it, the last: job/x/2/ ran on it")


def test_age_and_disk_soil_where_the_policy_says_so() -> None:
    assert one(node("cleanable clean", good, idle_since_ms=5), replace(POLICY, after_age_s=600)).act is Act.MARK_DIRTY
    assert one(node("cleanable clean", good, idle_since_ms=5), replace(POLICY, after_age_s=1600)).act is Act.WAIT
    policy = replace(POLICY, disk_below=100)
    low = node("cleanable clean", good, idle_since_ms=5, disk=Disk(free_bytes=99, at_ms=NOW))
    assert one(low, policy).act is Act.MARK_DIRTY
    # measured before the cleaning
    assert one(replace(low, disk=Disk(free_bytes=99, at_ms=good.ended_ms or 0)), policy).act is Act.WAIT
    assert one(replace(low, disk=Disk(free_bytes=100, at_ms=NOW)), policy).act is Act.WAIT


def test_a_quarantine_is_told_once_and_forgiven_when_a_person_brings_the_node_back() -> None:
    failed = [cleaning(n, "FAILURE") for n in (1, 2, 3)]
    held = node("cleanable dirty", *failed, held="[provisioner] quarantine: x")
    told = one(held)
    assert (told.state, told.act) == (NodeState.QUARANTINED, Act.NOTE)
    failed[2] = replace(failed[2], description=str(told.note))
    assert one(node("cleanable dirty", *failed, held="[provisioner] quarantine: x")).act is Act.WAIT
    assert one(node("cleanable dirty", *failed)).act is Act.START


def test_a_success_used_up_is_written_down_before_the_label_goes() -> None:
    decision = one(node("cleanable clean", good, runs=("job/x/1/",)))
    assert decision.cleaning == good
    assert decision.note is not None
    assert decision.note.word is Word.SPENT


def test_what_the_table_forbids_is_a_fault() -> None:
    with pytest.raises(IllegalActError, match="mark-clean of node n, which is failed"):
        Decision(node="n", state=NodeState.FAILED, act=Act.MARK_CLEAN, reason="x")


# -- properties

results = st.sampled_from([None, "SUCCESS", "FAILURE", "ABORTED", "UNSTABLE"])
notes = st.none() | st.sampled_from(Word)


items = st.builds(
    Queued,
    queue_id=st.integers(1),
    since_ms=st.integers(0, NOW),
    buildable=st.booleans(),
    free_s=st.none() | st.floats(0, 7200),
)


@st.composite
def any_nodes(draw: st.DrawFn) -> list[NodeFacts]:
    made = []
    for name in draw(st.lists(st.sampled_from("abcde"), unique=True)):
        history = [
            cleaning(
                number,
                draw(results),
                draw(notes),
                built_on=draw(st.sampled_from([None, "", name, "elsewhere"])),
                on_node=draw(st.booleans()),
            )
            for number in range(draw(st.integers(0, 5)), 0, -1)
        ]
        made.append(
            NodeFacts(
                name=name,
                labels=frozenset(draw(st.sets(st.sampled_from(["cleanable", "dirty", "clean", "linux"])))),
                built_in=draw(st.booleans()),
                connected=draw(st.booleans()),
                held=draw(st.sampled_from([None, None, "", "a person", "[provisioner] quarantine: x"])),
                runs=draw(st.sampled_from([(), (), ("job/x/1/",)])),
                idle_since_ms=draw(st.none() | st.integers(1, NOW)),
                disk=draw(st.none() | st.builds(Disk, free_bytes=st.integers(0, 200), at_ms=st.integers(0, NOW))),
                cleanings=tuple(history),
                queued=tuple(draw(st.lists(items))),
            )
        )
    return made


policies = st.builds(
    Policy,
    at_once=st.integers(1, 3),
    retries=st.integers(0, 3),
    after_builds=st.integers(0, 3),
    after_age_s=st.none() | st.floats(1, 1000),
    disk_below=st.none() | st.integers(0, 200),
    skip=st.frozensets(st.sampled_from("abcde"), max_size=1),
)


def by_name(nodes: Iterable[NodeFacts]) -> dict[str, NodeFacts]:
    return {facts.name: facts for facts in nodes}


@given(any_nodes(), policies)
def test_whatever_is_seen_every_act_is_safe_and_explained(nodes: list[NodeFacts], policy: Policy) -> None:
    known = by_name(nodes)
    decisions = decide(nodes, NOW, policy)
    assert [d.node for d in decisions] == sorted(
        n.name for n in nodes if "cleanable" in n.labels and not n.built_in
    )  # never another, each exactly once
    for decision in decisions:
        facts = known[decision.node]
        assert decision.reason
        assert decision.act in MOVES[decision.state]
        if facts.name in policy.skip:
            assert decision.act is Act.WAIT
        if decision.act in STARTS:
            assert facts.connected
            assert facts.held is None
            assert not facts.runs
            assert not facts.queued
            assert not running(facts)
            assert "dirty" in facts.labels
        if decision.act is Act.MARK_CLEAN:
            ended = [c for c in facts.cleanings if c.ended_ms is not None and not c.says(Word.VOID)]
            assert ended[0].result == "SUCCESS"  # never after a failure
            assert not ended[0].says(Word.SPENT)
            assert ended[0].built_on in {None, "", facts.name}
            assert not facts.runs
            assert facts.held is None
        if "clean" in facts.labels and facts.name not in policy.skip and decision.act is not Act.MARK_DIRTY:
            assert evidence(facts) is not None  # a clean label is believed only with a cleaning behind it
        if facts.held is not None:
            assert decision.act in {Act.WAIT, Act.NOTE, Act.MARK_DIRTY}  # a node that is offline stays so


@given(any_nodes(), policies)
def test_no_more_are_cleaned_at_once_than_allowed(nodes: list[NodeFacts], policy: Policy) -> None:
    known = by_name(nodes)
    decisions = decide(nodes, NOW, policy)
    live = sum(1 for d in decisions if known[d.node].queued or running(known[d.node]))
    started = sum(1 for d in decisions if d.act in STARTS)
    assert started == 0 or live + started <= policy.at_once


@given(any_nodes(), policies, st.randoms())
def test_two_schedulers_that_see_the_same_decide_the_same(
    nodes: list[NodeFacts], policy: Policy, chance: object
) -> None:
    mixed = list(nodes)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert decide(mixed, NOW, policy) == decide(nodes, NOW, policy)


@given(any_nodes(), policies)
def test_too_many_failures_end_in_quarantine(nodes: list[NodeFacts], policy: Policy) -> None:
    for decision in decide(nodes, NOW, policy):
        facts = by_name(nodes)[decision.node]
        if decision.act is Act.QUARANTINE:
            unable = any(item.buildable and item.free_s for item in facts.queued)
            assert unable or failures(facts) > policy.retries
        if decision.act is Act.RETRY:
            assert 0 < failures(facts) <= policy.retries


def test_a_misspelt_name_to_skip_is_told() -> None:
    told = misspelt([node(), node(name="m")], replace(POLICY, skip=frozenset({"m", "M"})))
    assert [(d.node, d.state, d.act) for d in told] == [("M", NodeState.SKIPPED, Act.WAIT)]


def test_a_clean_node_that_a_person_took_offline_says_so() -> None:
    assert one(node("cleanable clean", good, held="mine", idle_since_ms=5)).reason.endswith("taken offline (mine)")


def test_however_short_the_time_for_a_cleaning_is_jenkins_has_a_minute_to_begin_and_to_end_it() -> None:
    policy = replace(POLICY, dirty_timeout_s=1)
    item = waiting(since_ms=NOW - 60_000)
    assert one(node(queued=(replace(item, free_s=59),)), policy).act is Act.WAIT
    assert one(node(queued=(replace(item, free_s=60),)), policy).act is Act.QUARANTINE
    assert one(node("cleanable dirty", overdue(60)), policy).act is Act.STOP
    assert one(node("cleanable dirty", overdue(61)), policy).act is Act.QUARANTINE


def test_a_cleaning_that_waits_for_its_neighbours_is_not_the_nodes_fault() -> None:
    # the job forbids concurrent builds
    hung = node("cleanable dirty", cleaning(1, None, started_ms=NOW - 3_601_000, on_node=True))
    blocked = node(name="m", queued=(waiting(buildable=False, free_s=None),))
    acts = {decision.node: decision.act for decision in decide([hung, blocked], NOW, POLICY)}
    assert acts == {"n": Act.STOP, "m": Act.WAIT}


@pytest.mark.parametrize(
    "facts",
    [
        node(),
        node("cleanable dirty", cleaning(1, "FAILURE")),
        node("cleanable dirty", *(cleaning(n, "FAILURE") for n in (1, 2, 3))),
        node(queued=(waiting(free_s=3600),)),
        node(queued=(waiting(),), connected=False),
        node("cleanable dirty", overdue(3601)),
    ],
)
def test_nothing_is_begun_nor_quarantined_while_jenkins_shuts_down(facts: NodeFacts) -> None:
    (decision,) = decide([facts], NOW, POLICY, quieting_down=True)
    assert decision.act is Act.WAIT
    assert "Jenkins is about to shut down" in decision.reason
    assert not decision.soon
