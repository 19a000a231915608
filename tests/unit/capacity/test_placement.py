"""Who gets an agent, where, and what the others are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.capacity.explain import Verdict, explain
from provisioner.capacity.placement import Asked, Decision, Declined, Place, Wait, counted_turns, place
from provisioner.capacity.room import LAUNCHING, Condition, Plant, ProviderState, Tally, room_for
from provisioner.config import Limits, Provider, Template
from provisioner.model.agent import AgentState
from provisioner.model.queue import RequestKey
from provisioner.routing.match import Decline, Match, Routing


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    name: str
    providers: tuple[str, ...] = ("box",)
    max_agents: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    name: str = "box"
    max_agents: int | None = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Caps:
    agents: int | None = 200
    launching: int | None = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class One:
    """An agent."""

    template: str
    provider: str = "box"
    state: AgentState = AgentState.RUNNING


def key(number: int) -> RequestKey:
    return RequestKey(controller="main", queue_id=number, since_ms=number, task=f"job/j{number}/")


def queue(*winners: str | None) -> list[Asked]:
    """A queue by the templates that win each item; None: no template does."""
    return [
        Asked(
            key=key(number),
            routing=Routing.of(
                [Match(template=winner, labels=("x",))] if winner else [Decline(template="maven", reasons=("no",))]
            ),
        )
        for number, winner in enumerate(winners)
    ]


def plant(
    templates: Iterable[Rules] = (Rules(name="maven"),), providers: Iterable[Box] = (Box(),), limits: Caps | None = None
) -> Plant:
    return Plant.of(templates=templates, providers=providers, limits=limits or Caps())


def shown(decisions: Sequence[Decision]) -> list[str]:
    out = []
    for decision in decisions:
        match decision:
            case Place(template=template, provider=provider):
                out.append(f"{template}@{provider}")
            case Wait(reasons=reasons):
                out.append("; ".join(reasons))
            case Declined():
                out.append("declined")
    return out


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
_caps = st.none() | st.integers(1, 6)
_agents = st.builds(
    One, template=st.sampled_from(NAMES), provider=st.sampled_from(BOXES), state=st.sampled_from(AgentState)
)
_conditions = st.builds(Condition, state=st.sampled_from([*ProviderState, ProviderState.OPEN, ProviderState.OPEN]))


@st.composite
def _plants(draw: st.DrawFn) -> Plant:
    providers = st.lists(st.sampled_from(BOXES), unique=True).map(tuple)
    return Plant.of(
        templates=[Rules(name=name, providers=draw(providers), max_agents=draw(_caps)) for name in NAMES],
        providers=[Box(name=name, max_agents=draw(_caps)) for name in BOXES],
        limits=Caps(agents=draw(st.none() | st.integers(1, 15)), launching=draw(_caps)),
        conditions=draw(st.dictionaries(st.sampled_from(BOXES), _conditions)),
        pair_conditions=draw(st.dictionaries(st.tuples(st.sampled_from(BOXES), st.sampled_from(NAMES)), _conditions)),
    )


_queues = st.lists(st.sampled_from([*NAMES, None]), max_size=25)
_worlds = st.tuples(_plants(), _queues, st.lists(_agents, max_size=8), st.sets(st.integers(0, 24).map(key)))
World = tuple[Plant, list[str | None], list[One], set[RequestKey]]


def run(world: World) -> tuple[tuple[Decision, ...], list[One]]:
    """The decisions, and the agents that exist once they are carried out."""
    one_plant, winners, agents, served = world
    decisions = place(queue(*winners), plant=one_plant, agents=agents, served=served)
    new = [
        One(template=decision.template, provider=decision.provider, state=AgentState.PLANNED)
        for decision in decisions
        if isinstance(decision, Place)
    ]
    return decisions, agents + new


@given(_worlds)
def test_everything_that_is_not_served_is_decided_once_in_the_order_of_the_queue(world: World) -> None:
    _, winners, _, served = world
    decisions, _ = run(world)
    assert [decision.key for decision in decisions] == [
        key(number) for number in range(len(winners)) if key(number) not in served
    ]
    assert decisions == run(world)[0]


@given(_worlds)
def test_no_cap_is_ever_exceeded_by_a_placement(world: World) -> None:
    one_plant, _, _, _ = world
    decisions, after = run(world)
    live = [agent for agent in after if agent.state is not AgentState.REMOVED]
    by_template = Counter(agent.template for agent in live)
    by_provider = Counter(agent.provider for agent in live)
    for decision in decisions:
        if not isinstance(decision, Place):
            continue
        template = one_plant.templates[decision.template]
        provider = one_plant.providers[decision.provider]
        assert decision.provider in template.providers
        assert template.max_agents is None or by_template[template.name] <= template.max_agents
        assert provider.max_agents is None or by_provider[provider.name] <= provider.max_agents
        assert one_plant.limits.agents is None or len(live) <= one_plant.limits.agents
        launching = sum(agent.state in LAUNCHING for agent in live)
        assert one_plant.limits.launching is None or launching <= one_plant.limits.launching
        for condition in (
            one_plant.conditions.get(decision.provider),
            one_plant.pair_conditions.get((decision.provider, decision.template)),
        ):
            assert condition is None or condition.state in (ProviderState.OPEN, ProviderState.PROBING)
        at = [agent for agent in live if (agent.template, agent.provider) == (template.name, provider.name)]
        pair = one_plant.pair_conditions.get((provider.name, template.name), Condition())
        assert pair.state is ProviderState.OPEN or sum(agent.state in LAUNCHING for agent in at) == 1


@given(_worlds)
def test_a_request_waits_only_while_no_provider_has_room_and_its_reasons_are_true(world: World) -> None:
    one_plant, _, _, _ = world
    decisions, after = run(world)
    live = [agent for agent in after if agent.state is not AgentState.REMOVED]
    for decision in decisions:
        if not isinstance(decision, Wait):
            continue
        template = one_plant.templates[decision.template]
        here = sum(agent.template == template.name for agent in live)
        launching = sum(agent.state in LAUNCHING for agent in live)
        limits = one_plant.limits
        true = set()
        if template.max_agents is not None and here >= template.max_agents:
            true.add(f"template {template.name} is at its maximum ({here} of {template.max_agents} agents)")
        if limits.agents is not None and len(live) >= limits.agents:
            true.add(f"limits.agents reached ({len(live)} of {limits.agents})")
        if limits.launching is not None and launching >= limits.launching:
            true.add(f"limits.launching reached ({launching} of {limits.launching})")
        usable = 0
        for name in template.providers:
            at = sum(agent.provider == name for agent in live)
            cap = one_plant.providers[name].max_agents
            state = one_plant.conditions.get(name, Condition()).state
            pair = one_plant.pair_conditions.get((name, template.name), Condition()).state
            if state is not ProviderState.OPEN:
                true.add(f"provider {name} is {state.replace('_', ' ')}")
            elif pair is not ProviderState.OPEN:
                true.add(f"provider {name} is, for template {template.name}, {pair.replace('_', ' ')}")
            elif cap is not None and at >= cap:
                true.add(f"provider {name} is full ({at} of {cap} agents)")
            else:
                usable += 1
        if not template.providers:
            true.add(f"template {template.name} has no provider")
        assert decision.reasons
        assert set(decision.reasons) <= true
        assert usable == 0 or any(reason.startswith(("template", "limits")) for reason in decision.reasons)


@given(_worlds)
def test_within_a_template_nobody_overtakes(world: World) -> None:
    decisions, _ = run(world)
    for name in NAMES:
        mine = [decision for decision in decisions if isinstance(decision, Place | Wait) and decision.template == name]
        placed = [isinstance(decision, Place) for decision in mine]
        assert placed == sorted(placed, reverse=True)


@given(_worlds)
def test_a_template_with_more_agents_gets_a_slot_only_if_one_with_fewer_cannot_use_it(world: World) -> None:
    one_plant, _, agents, _ = world
    decisions, _ = run(world)
    before = Tally.of(agents)
    waits = {decision.template for decision in decisions if isinstance(decision, Wait)}
    placed = Counter(decision.template for decision in decisions if isinstance(decision, Place))
    for poor in waits:
        for rich in placed:
            if before.by_template[rich] + placed[rich] > before.by_template[poor] + placed[poor] + 1:
                # undo the rich one's last placement: the poor one still could not go there
                last = [d for d in decisions if isinstance(d, Place) and d.template == rich][-1]
                tally = Tally.of(agents)
                others = [d for d in decisions if isinstance(d, Place) and d is not last]
                for other in others:
                    tally.add(other.template, other.provider, launching=True)
                assert room_for(poor, one_plant, tally).provider is None


@given(_worlds)
def test_the_explanation_of_a_waiting_request_gives_the_reasons_of_its_wait(world: World) -> None:
    one_plant, winners, _, _ = world
    decisions, after = run(world)
    asked = {entry.key: entry.routing for entry in queue(*winners)}
    for decision in decisions:
        told = explain("it", asked[decision.key], plant=one_plant, tally=Tally.of(after))
        match decision:
            case Wait(reasons=reasons):
                assert (told.verdict, told.reasons) == (Verdict.WAIT, reasons)
            case Declined():
                assert told.verdict is Verdict.NO


@given(_worlds)
def test_the_explanation_of_the_only_request_names_the_provider_that_takes_it(world: World) -> None:
    one_plant, winners, agents, _ = world
    for entry in queue(*winners):
        (decision,) = place([entry], plant=one_plant, agents=agents)
        told = explain("it", entry.routing, plant=one_plant, tally=Tally.of(agents))
        if isinstance(decision, Place):
            assert (told.verdict, told.template, told.provider) == (
                Verdict.YES,
                decision.template,
                decision.provider,
            )
        else:
            assert told.provider is None
