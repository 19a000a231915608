"""Days of a cluster in a moment: queues come and go, launches fail, agents end, and the rules hold at every instant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.capacity.explain import Explanation, Verdict, explain
from provisioner.capacity.placement import Asked, Decision, Place, Wait, counted_passes, counted_turns, place
from provisioner.capacity.plant import Plant, Tally
from provisioner.model.agent import AgentState
from provisioner.model.queue import RequestKey
from tests.unit.capacity.plants import Box, Caps, Item, One, Rules, over, queue

#: How long an agent is in each state, in rounds; a build's time comes on top.
LIFE = (AgentState.PLANNED, AgentState.STARTING, AgentState.CONNECTING)


@dataclass
class Cluster:
    """A cluster at work; one round is one pass of the planner and one step of every agent."""

    plant: Plant
    waiting: list[Asked]
    fails: frozenset[int]  # requests whose first launch fails
    takes: int  # rounds that a build runs
    agents: dict[int, tuple[One, int]] = field(default_factory=dict)  # by request: the agent, and its round
    turns: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    round: int = 0
    most: Counter[str] = field(default_factory=Counter)

    def step(self) -> None:
        """One round."""
        self.round += 1
        for number, (agent, began) in list(self.agents.items()):
            self._grow(number, agent, self.round - began)
        self._check()
        before = {entry.key: self._told(entry) for entry in self._heads()}
        decisions = self._placed()
        self.turns, self.passed = counted_turns(self.turns, decisions), counted_passes(self.passed, decisions)
        by_key = {entry.key: entry for entry in self.waiting}
        for decision in decisions:
            if isinstance(decision, Place):
                entry = by_key[decision.key]
                winner = entry.routing.winner
                assert winner is not None
                one = One(
                    template=decision.template,
                    provider=decision.provider,
                    state=AgentState.PLANNED,
                    controller=decision.key.controller,
                    labels=winner.labels,
                )
                self.agents[decision.key.queue_id] = (one, self.round)
                self.log.append(f"{self.round} {decision.key.queue_id} {decision.provider}")
        placed = {decision.key for decision in decisions if isinstance(decision, Place)}
        self._explained(before, placed)
        self.waiting = [entry for entry in self.waiting if entry.key not in placed]
        self._check()
        # what waits now waits for something that is true, and a second look changes nothing
        for entry in self.waiting:
            assert self._told(entry).verdict is Verdict.WAIT
        assert all(isinstance(decision, Wait) for decision in self._placed())

    def _placed(self) -> tuple[Decision, ...]:
        return place(self.waiting, plant=self.plant, agents=self._agents(), last_turns=self.turns, passed=self.passed)

    def _heads(self) -> Iterator[Asked]:
        """The first of the whole queue: whatever happens to the others, it is what explain says."""
        yield from self.waiting[:1]

    def _explained(self, before: dict[RequestKey, Explanation], placed: set[RequestKey]) -> None:
        for key, told in before.items():
            verdict, template = told.verdict, told.template
            mine = [e for e in self.waiting if e.routing.winner and e.routing.winner.template == template]
            if len(mine) == len(self.waiting):  # no other template may have had its turn before it
                assert (verdict is Verdict.YES) is (key in placed)
            elif verdict is not Verdict.YES:
                assert key not in placed

    def _told(self, entry: Asked) -> Explanation:
        return explain(
            "it",
            entry.routing,
            plant=self.plant,
            tally=Tally.of(self._agents()),
            controller=entry.key.controller,
            failed_at=entry.failed_at,
        )

    def _grow(self, number: int, agent: One, age: int) -> None:
        if age < len(LIFE):
            self.agents[number] = (replace(agent, state=LIFE[age]), self.round - age)
        elif number in self.fails and number not in self.failed:
            self.failed.add(number)
            del self.agents[number]
            self.waiting.append(replace(self._asked(number), failed_at=(agent.provider,)))
            self.waiting.sort(key=lambda entry: entry.key.queue_id)
        elif age < len(LIFE) + self.takes:
            self.agents[number] = (replace(agent, state=AgentState.RUNNING), self.round - age)
        elif age == len(LIFE) + self.takes:
            # its build is over, and it holds its slot until nothing of it is left
            self.agents[number] = (replace(agent, state=AgentState.REMOVING), self.round - age)
        else:
            del self.agents[number]
            self.done.append(number)

    def _asked(self, number: int) -> Asked:
        return self.everything[number]

    everything: dict[int, Asked] = field(default_factory=dict)

    def _agents(self) -> list[One]:
        return [agent for agent, _ in self.agents.values()]

    def _check(self) -> None:
        assert over(self.plant, self._agents()) == []


TEMPLATES = ("t0", "t1", "t2")
PROVIDERS = ("p0", "p1")
_few = st.integers(1, 4)


@st.composite
def _clusters(draw: st.DrawFn) -> Cluster:
    plant = Plant.of(
        templates=[
            Rules(
                name=name,
                providers=tuple(draw(st.lists(st.sampled_from(PROVIDERS), unique=True, min_size=1))),
                max_agents=draw(st.none() | _few),
            )
            for name in TEMPLATES
        ],
        providers=[Box(name=name, max_agents=draw(_few)) for name in PROVIDERS],
        limits=Caps(agents=draw(_few), launching=draw(_few), labels=draw(st.dictionaries(st.just("gpu"), _few))),
        controllers=draw(st.dictionaries(st.sampled_from(["a", "b"]), _few)),
    )
    items = draw(
        st.lists(
            st.builds(
                Item,
                winner=st.sampled_from(TEMPLATES),
                controller=st.sampled_from(["a", "b"]),
                labels=st.sampled_from([("x",), ("x", "gpu")]),
            ),
            min_size=1,
            max_size=20,
        )
    )
    asked = queue(*items)
    return Cluster(
        plant=plant,
        waiting=list(asked),
        fails=frozenset(draw(st.sets(st.integers(0, len(items) - 1), max_size=5))),
        takes=draw(st.integers(1, 3)),
        everything={entry.key.queue_id: entry for entry in asked},
    )


def _copy(cluster: Cluster) -> Cluster:
    return Cluster(
        plant=cluster.plant,
        waiting=list(cluster.waiting),
        fails=cluster.fails,
        takes=cluster.takes,
        everything=cluster.everything,
    )


@given(_clusters())
@settings(max_examples=80, deadline=None)
def test_every_request_is_served_in_the_end_and_no_cap_is_exceeded_on_the_way(cluster: Cluster) -> None:
    twin = _copy(cluster)
    number = len(cluster.waiting)
    # one after the other, each as long as can be: nobody waits longer than everybody else takes together
    rounds = (number + len(cluster.fails)) * (len(LIFE) + cluster.takes + 2)
    for _ in range(rounds):
        cluster.step()
    assert sorted(cluster.done) == list(range(number)), "somebody starved"
    for _ in range(rounds):
        twin.step()
    assert twin.log == cluster.log, "equal clusters were treated differently"


@given(_clusters(), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_a_rare_label_is_served_soon_however_busy_the_others_are(cluster: Cluster, which: int) -> None:
    """Work without end for two labels; the third has one request, which waits for one round of turns at most."""
    rare = TEMPLATES[which]
    (wish,) = queue(Item(winner=rare, controller="a"))
    cluster.waiting = [entry for entry in cluster.waiting if entry.routing.winner
                       and entry.routing.winner.template != rare]  # fmt: skip
    cluster.fails = frozenset()
    endless = list(cluster.waiting)
    wish = replace(wish, key=replace(wish.key, queue_id=10_000))
    cluster.everything[10_000] = wish
    cluster.waiting.append(wish)
    life = len(LIFE) + cluster.takes + 2
    serial = 1000
    for _ in range(4 * life * (len(TEMPLATES) + 1)):
        cluster.step()
        if 10_000 in cluster.agents:
            break
        for entry in endless:  # as many again in each round
            serial += 1
            more = replace(entry, key=replace(entry.key, queue_id=serial))
            cluster.everything[serial] = more
            cluster.waiting.insert(-1, more)
        cluster.waiting.sort(key=lambda entry: entry.key.queue_id)
    assert 10_000 in cluster.agents, "the rare label starved"
