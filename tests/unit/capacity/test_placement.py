"""Who gets an agent, where, and what the others are told."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.capacity.explain import Verdict, explain
from provisioner.capacity.placement import (
    MOST_PASSED,
    Decision,
    Declined,
    Place,
    Wait,
    counted_passes,
    counted_turns,
    place,
)
from provisioner.capacity.plant import LAUNCHING, Condition, Plant, ProviderState, Tally
from provisioner.capacity.room import room_for
from provisioner.config import Limits, Provider, Template
from provisioner.model.agent import AgentState
from provisioner.routing.match import Decline
from tests.unit.capacity.plants import Box, Caps, Item, One, Rules, key, over, plant, queue, shown


def test_a_request_is_placed_at_the_first_provider_with_room_and_the_next_takes_the_overflow() -> None:
    rules = Rules(name="maven", providers=("big", "small"))
    decisions = place(
        queue(*["maven"] * 4),
        plant=plant([rules], [Box(name="small", max_agents=1), Box(name="big", max_agents=2)]),
        agents=[],
    )
    assert shown(decisions) == [
        "maven@big",
        "maven@big",
        "maven@small",
        "provider big is full (2 of 2 agents); provider small is full (1 of 1 agents)",
    ]


def test_an_item_that_no_template_serves_is_declined_with_every_templates_reasons() -> None:
    (decision,) = place(queue(None), plant=plant(), agents=[])
    assert decision == Declined(key=key(0), declines=(Decline(template="maven", reasons=("no",)),))


def test_a_request_that_is_served_is_skipped() -> None:
    decisions = place(queue("maven", "maven"), plant=plant(), agents=[One(template="maven")], served={key(0)})
    assert [decision.key for decision in decisions] == [key(1)]


@pytest.mark.parametrize("state", [state for state in AgentState if state is not AgentState.REMOVED])
def test_an_agent_holds_its_slot_until_it_is_gone(state: AgentState) -> None:
    agents = [One(template="maven", state=state)]
    decisions = place(queue("maven"), plant=plant(providers=[Box(max_agents=1)]), agents=agents)
    assert shown(decisions) == ["provider box is full (1 of 1 agents)"]


def test_a_removed_agent_holds_no_slot() -> None:
    agents = [One(template="maven", state=AgentState.REMOVED)]
    decisions = place(queue("maven"), plant=plant(providers=[Box(max_agents=1)]), agents=agents)
    assert shown(decisions) == ["maven@box"]


def test_a_template_at_its_maximum_holds_up_no_other() -> None:
    decisions = place(
        queue("maven", "maven", "node"),
        plant=plant([Rules(name="maven", max_agents=1), Rules(name="node")]),
        agents=[],
    )
    assert shown(decisions) == ["maven@box", "template maven is at its maximum (1 of 1 agents)", "node@box"]


def test_the_total_is_capped() -> None:
    agents = [One(template="other", provider="elsewhere")]
    decisions = place(queue("maven", "maven"), plant=plant(limits=Caps(agents=2)), agents=agents)
    assert shown(decisions) == ["maven@box", "limits.agents reached (2 of 2)"]


@pytest.mark.parametrize("state", AgentState)
def test_launching_counts_agents_that_are_not_yet_online(state: AgentState) -> None:
    decisions = place(
        queue("maven"), plant=plant(limits=Caps(launching=1)), agents=[One(template="maven", state=state)]
    )
    launching = {AgentState.PLANNED, AgentState.REGISTERING, AgentState.STARTING, AgentState.CONNECTING}
    assert shown(decisions) == (["limits.launching reached (1 of 1)"] if state in launching else ["maven@box"])


def test_all_that_keeps_a_request_waiting_is_told() -> None:
    decisions = place(
        queue("maven"),
        plant=plant([Rules(name="maven", max_agents=1)], [Box(max_agents=1)], Caps(agents=1, launching=1)),
        agents=[One(template="maven", state=AgentState.PLANNED)],
    )
    (told,) = shown(decisions)
    assert told.split("; ") == [
        "template maven is at its maximum (1 of 1 agents)",
        "limits.agents reached (1 of 1)",
        "limits.launching reached (1 of 1)",
        "provider box is full (1 of 1 agents)",
    ]


def test_a_full_provider_is_not_named_while_another_has_room() -> None:
    rules = Rules(name="maven", providers=("box", "spare"), max_agents=1)
    decisions = place(
        queue("maven"),
        plant=plant([rules], [Box(max_agents=1), Box(name="spare")]),
        agents=[One(template="maven")],
    )
    assert shown(decisions) == ["template maven is at its maximum (1 of 1 agents)"]


def test_a_provider_that_is_not_open_is_passed_over_and_says_why() -> None:
    rules = Rules(name="maven", providers=("a", "b", "c", "d", "gone"))
    closed = replace(
        plant([rules], [Box(name=name) for name in "abcd"]),
        conditions={
            "a": Condition(state=ProviderState.DRAINING),
            "b": Condition(state=ProviderState.UNREACHABLE, reason="connection refused"),
            "c": Condition(state=ProviderState.COOLING_DOWN, reason="3 launches failed", until="12:00:00 UTC"),
        },
        pair_conditions={("d", "maven"): Condition(state=ProviderState.COOLING_DOWN, until="12:01:00 UTC")},
    )
    (decision,) = place(queue("maven"), plant=closed, agents=[])
    assert isinstance(decision, Wait)
    assert decision.reasons == (
        "provider a is draining",
        "provider b is unreachable: connection refused",
        "provider c is cooling down until 12:00:00 UTC: 3 launches failed",
        "provider d is, for template maven, cooling down until 12:01:00 UTC",
        "provider gone is not configured",
    )
    opened = replace(closed, pair_conditions={("d", "other"): Condition(state=ProviderState.COOLING_DOWN)})
    assert shown(place(queue("maven"), plant=opened, agents=[])) == ["maven@d"]


def test_a_template_that_a_reload_took_away_keeps_its_requests_waiting() -> None:
    assert shown(place(queue("old"), plant=plant(), agents=[])) == ["template old is no longer configured"]


def test_templates_take_turns_when_slots_are_scarce() -> None:
    both = [Rules(name="busy"), Rules(name="rare")]
    decisions = place(
        queue("busy", "busy", "busy", "busy", "rare", "rare"), plant=plant(both, [Box(max_agents=4)]), agents=[]
    )
    placed = [decision.template for decision in decisions if isinstance(decision, Place)]
    assert placed == ["busy", "busy", "rare", "rare"]


def test_a_single_free_slot_goes_to_the_template_that_has_least_not_to_the_longer_queue() -> None:
    both = [Rules(name="busy"), Rules(name="rare")]
    decisions = place(
        queue(*["busy"] * 50, "rare"),
        plant=plant(both, [Box(max_agents=4)]),
        agents=[One(template="busy")] * 3,
    )
    assert [decision.key for decision in decisions if isinstance(decision, Place)] == [key(50)]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_template_starves_behind_the_long_queues_of_others(slots: int) -> None:
    """Five templates with endless work stand first; each agent lives for as many rounds as there are slots."""
    busy = [f"t{number}" for number in range(5)]
    everything = plant([Rules(name=name) for name in (*busy, "rare")], [Box(max_agents=slots)])
    waiting = [*busy * 40, "rare"]
    agents: list[One] = []
    turns: dict[str, int] = {}
    served: list[str] = []
    while "rare" not in served:
        decisions = place(queue(*waiting), plant=everything, agents=agents, last_turns=turns)
        started = [decision for decision in decisions if isinstance(decision, Place)]
        turns = counted_turns(turns, decisions)
        taken = {decision.key.queue_id for decision in started}
        waiting = [name for number, name in enumerate(waiting) if number not in taken]
        served += [decision.template for decision in started]
        assert len(served) <= len(busy) + slots, served
        agents = (agents + [One(template=decision.template) for decision in started])[1:]  # the oldest ends


def test_a_steady_flow_of_one_label_does_not_starve_another_that_has_more() -> None:
    """Label a has one long build and a second one that stands first; b always has a short one waiting, none running."""
    both = plant([Rules(name="a"), Rules(name="b")], [Box(max_agents=2)])
    turns: dict[str, int] = {}
    passed: dict[str, int] = {}
    got: list[str] = []
    while "a" not in got and len(got) < 200:
        decisions = place(queue("a", "b"), plant=both, agents=[One(template="a")], last_turns=turns, passed=passed)
        turns, passed = counted_turns(turns, decisions), counted_passes(passed, decisions)
        got += [decision.template for decision in decisions if isinstance(decision, Place)]
    assert got == [*["b"] * MOST_PASSED, "a"]
    assert passed == {"b": 1}, "what it was owed is paid"


@given(st.lists(st.integers(0, 6), min_size=2, max_size=5), st.integers(1, 3), st.randoms())
def test_every_request_is_placed_within_a_bounded_number_of_looks_as_builds_end(
    long: list[int], short: int, chance: random.Random
) -> None:
    """Every label always has a request; some have long builds that never end, and the other slots come back."""
    names = [f"t{number}" for number in range(len(long))]
    stay = [One(template=name) for name, number in zip(names, long, strict=True) for _ in range(number)]
    everything = plant([Rules(name=name) for name in names], [Box(max_agents=len(stay) + short)], Caps(launching=None))
    line = names[:]
    chance.shuffle(line)
    ends: list[One] = []
    turns: dict[str, int] = {}
    passed: dict[str, int] = {}
    waited = dict.fromkeys(names, 0)
    for _ in range(100):
        decisions = place(queue(*line), plant=everything, agents=stay + ends, last_turns=turns, passed=passed)
        turns, passed = counted_turns(turns, decisions), counted_passes(passed, decisions)
        placed = [decision.template for decision in decisions if isinstance(decision, Place)]
        waited = {name: 0 if name in placed else waited[name] + 1 for name in names}
        assert max(waited.values()) <= MOST_PASSED + len(names)
        line = [name for name in line if name not in placed] + placed
        ends += [One(template=name) for name in placed]
        ends.pop(chance.randrange(len(ends)))


def test_what_is_held_up_by_the_cap_of_its_controller_or_label_holds_up_no_other() -> None:
    capped = Plant.of(
        templates=[Rules(name="maven")],
        providers=[Box()],
        limits=Caps(labels={"gpu": 1}),
        controllers={"busy": 2, "main": None},
    )
    one = Item(winner="maven", controller="busy")
    gpu = Item(winner="maven", labels=("x", "gpu"))
    waiting = [one, one, one, gpu, gpu, Item(winner="maven")]
    assert shown(place(queue(*waiting), plant=capped, agents=[])) == [
        "maven@box",
        "maven@box",
        "controller busy is at its maximum (2 of 2 agents)",
        "maven@box",
        "limits.labels reached for gpu (1 of 1)",
        "maven@box",
    ]
    # an agent of whom nobody knows whose it is counts for every controller
    nobodys = [One(template="maven", controller=""), One(template="maven", controller="main", labels=("gpu",))]
    assert shown(place(queue(one, one, gpu), plant=capped, agents=nobodys)) == [
        "maven@box",
        "controller busy is at its maximum (2 of 2 agents)",
        "limits.labels reached for gpu (1 of 1)",
    ]


def test_without_a_memory_equals_go_by_the_queue() -> None:
    both = plant([Rules(name="a"), Rules(name="b")], [Box(max_agents=1)])
    assert shown(place(queue("b", "a"), plant=both, agents=[]))[0] == "b@box"
    assert shown(place(queue("b", "a"), plant=both, agents=[], last_turns={"b": 1}))[1] == "a@box"


def test_the_configurations_own_parts_will_do() -> None:
    template = Template(name="maven", labels=("maven",), providers=("big-box",), max_agents=1)
    provider = Provider(name="big-box", backend="docker", max_agents=10)
    real = Plant.of(templates=[template], providers=[provider], limits=Limits())
    assert shown(place(queue("maven"), plant=real, agents=[])) == ["maven@big-box"]


NAMES = ("t0", "t1", "t2", "t3")
BOXES = ("p0", "p1", "p2")
CONTROLLERS = ("c0", "c1")
LABELS = ("x", "gpu", "big")
_caps = st.none() | st.integers(1, 6)
_labels = st.lists(st.sampled_from(LABELS), unique=True).map(tuple)
_agents = st.builds(
    One,
    template=st.sampled_from(NAMES),
    provider=st.sampled_from(BOXES),
    state=st.sampled_from(AgentState),
    controller=st.sampled_from([*CONTROLLERS, ""]),
    labels=_labels,
)
_conditions = st.builds(Condition, state=st.sampled_from([*ProviderState, ProviderState.OPEN, ProviderState.OPEN]))
_items = st.builds(
    Item,
    winner=st.sampled_from([*NAMES, *NAMES, None]),
    controller=st.sampled_from(CONTROLLERS),
    labels=_labels,
)


@st.composite
def _plants(draw: st.DrawFn) -> Plant:
    providers = st.lists(st.sampled_from(BOXES), unique=True).map(tuple)
    return Plant.of(
        templates=[Rules(name=name, providers=draw(providers), max_agents=draw(_caps)) for name in NAMES],
        providers=[Box(name=name, max_agents=draw(_caps)) for name in BOXES],
        limits=Caps(
            agents=draw(st.none() | st.integers(1, 15)),
            launching=draw(_caps),
            labels=draw(st.dictionaries(st.sampled_from(LABELS), st.integers(1, 6))),
        ),
        controllers=draw(st.dictionaries(st.sampled_from(CONTROLLERS), _caps)),
        conditions=draw(st.dictionaries(st.sampled_from(BOXES), _conditions)),
        pair_conditions=draw(st.dictionaries(st.tuples(st.sampled_from(BOXES), st.sampled_from(NAMES)), _conditions)),
    )


_queues = st.lists(_items, max_size=25)
_worlds = st.tuples(_plants(), _queues, st.lists(_agents, max_size=8), st.sets(st.integers(0, 24)))
World = tuple[Plant, list[Item], list[One], set[int]]


def run(world: World) -> tuple[tuple[Decision, ...], list[One]]:
    """The decisions, and the agents that exist once they are carried out."""
    one_plant, items, agents, served = world
    asked = queue(*items)
    keys = {entry.key for number, entry in enumerate(asked) if number in served}
    decisions = place(asked, plant=one_plant, agents=agents, served=keys)
    return decisions, agents + [made(decision, items) for decision in decisions if isinstance(decision, Place)]


def made(decision: Place, items: Sequence[Item]) -> One:
    return One(
        template=decision.template,
        provider=decision.provider,
        state=AgentState.PLANNED,
        controller=decision.key.controller,
        labels=items[decision.key.queue_id].labels,
    )


@given(_worlds)
def test_everything_that_is_not_served_is_decided_once_in_the_order_of_the_queue(world: World) -> None:
    _, items, _, served = world
    decisions, _ = run(world)
    assert [decision.key.queue_id for decision in decisions] == [n for n in range(len(items)) if n not in served]
    assert decisions == run(world)[0]


@given(_worlds)
def test_no_cap_is_ever_exceeded_by_a_placement(world: World) -> None:
    one_plant, items, agents, _ = world
    decisions, after = run(world)
    assert set(over(one_plant, after)) <= set(over(one_plant, agents)), "what was over before is nobody's doing here"
    for decision in decisions:
        if not isinstance(decision, Place):
            continue
        assert decision.provider in one_plant.templates[decision.template].providers
        mine = made(decision, items)
        for what in over(one_plant, agents):  # it was over before: then nothing that counts there was placed
            kind, _, name = what.partition(" ")
            assert kind not in ("agents", "launching")
            assert (kind, name) not in (
                ("template", mine.template),
                ("provider", mine.provider),
                ("controller", mine.controller),
                *(("label", label) for label in mine.labels),
            )
        for condition in (
            one_plant.conditions.get(decision.provider),
            one_plant.pair_conditions.get((decision.provider, decision.template)),
        ):
            assert condition is None or condition.state in (ProviderState.OPEN, ProviderState.PROBING)
        at = [a for a in after if (a.template, a.provider) == (mine.template, mine.provider)]
        pair = one_plant.pair_conditions.get((mine.provider, mine.template), Condition())
        assert pair.state is ProviderState.OPEN or sum(agent.state in LAUNCHING for agent in at) == 1


@given(_worlds)
def test_a_request_waits_only_if_one_agent_more_would_exceed_a_cap_and_its_reasons_are_true(world: World) -> None:
    one_plant, items, _, _ = world
    decisions, after = run(world)
    for decision in decisions:
        if not isinstance(decision, Wait):
            continue
        item = items[decision.key.queue_id]
        before, usable = set(over(one_plant, after)), []
        for name in one_plant.templates[decision.template].providers:
            states = {
                one_plant.conditions.get(name, Condition()).state,
                one_plant.pair_conditions.get((name, decision.template), Condition()).state,
            }
            place_there = Place(key=decision.key, template=decision.template, provider=name)
            more = [*after, made(place_there, items)]
            exceeded = set(over(one_plant, more)) - before
            full = {what for what in over(one_plant, more) if what == f"provider {name}"}
            above = [w for w in over(one_plant, more) if w.split()[0] in ("agents", "launching") or w in (
                f"template {decision.template}", f"controller {item.controller}",
                *(f"label {label}" for label in item.labels))]  # fmt: skip
            if states == {ProviderState.OPEN} and not exceeded and not full and not above:
                usable.append(name)
        assert not usable, f"it could go to {usable}, and is told {decision.reasons}"
        assert decision.reasons
        for reason in decision.reasons:
            if found := re.search(r"\((\d+) of (\d+)", reason):
                assert int(found[1]) >= int(found[2]), reason


@given(_worlds)
def test_within_a_template_nobody_overtakes_but_who_is_not_held_up_by_the_same_cap(world: World) -> None:
    one_plant, items, _, _ = world
    decisions, _ = run(world)
    lanes: dict[object, list[bool]] = {}
    for decision in decisions:
        if isinstance(decision, Place | Wait):
            labels = tuple(la for la in items[decision.key.queue_id].labels if la in one_plant.limits.labels)
            lane = lanes.setdefault((decision.template, decision.key.controller, labels), [])
            lane.append(isinstance(decision, Place))
    for placed in lanes.values():
        assert placed == sorted(placed, reverse=True)


@given(_worlds)
def test_a_template_with_more_agents_gets_a_slot_only_if_one_with_fewer_cannot_use_it(world: World) -> None:
    one_plant, items, agents, _ = world
    decisions, _ = run(world)
    before = Tally.of(agents)
    waits = {decision.wanted for decision in decisions if isinstance(decision, Wait)}
    placed = [decision for decision in decisions if isinstance(decision, Place)]
    counts = Counter(decision.template for decision in placed)
    for poor in waits:
        for rich in counts:
            poors = before.by_template[poor.template] + counts[poor.template]
            if before.by_template[rich] + counts[rich] > poors + 1:
                # undo the rich one's last placement: the poor one still could not go there
                last = [d for d in placed if d.template == rich][-1]
                left = [made(d, items) for d in placed if d is not last]
                assert room_for(poor, one_plant, Tally.of([*agents, *left])).provider is None


@given(_worlds)
def test_the_explanation_of_a_waiting_request_gives_the_reasons_of_its_wait(world: World) -> None:
    one_plant, items, _, _ = world
    decisions, after = run(world)
    asked = {entry.key: entry.routing for entry in queue(*items)}
    for decision in decisions:
        told = explain(
            "it",
            asked[decision.key],
            plant=one_plant,
            tally=Tally.of(after),
            controller=decision.key.controller,
        )
        assert {one.provider for one in told.providers} == set(BOXES), "every provider answers"
        match decision:
            case Wait(reasons=reasons):
                assert (told.verdict, told.reasons) == (Verdict.WAIT, reasons)
                assert told.next_step.startswith("an agent is started as soon as ")
            case Declined():
                assert told.verdict is Verdict.NO
                assert {one.verdict for one in told.providers} == {Verdict.NO}


@given(_worlds)
def test_the_explanation_of_the_only_request_names_the_provider_that_takes_it(world: World) -> None:
    one_plant, items, agents, _ = world
    for entry in queue(*items):
        (decision,) = place([entry], plant=one_plant, agents=agents)
        told = explain("it", entry.routing, plant=one_plant, tally=Tally.of(agents), controller=entry.key.controller)
        yes = [one.provider for one in told.providers if one.verdict is Verdict.YES]
        if isinstance(decision, Place):
            assert (told.verdict, told.template, told.provider) == (
                Verdict.YES,
                decision.template,
                decision.provider,
            )
            assert yes[0] == decision.provider
            assert told.next_step == f"an agent is started at {decision.provider}"
        else:
            assert told.provider is None
            assert not yes
