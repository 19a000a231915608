"""What a person is told who asks why a build waits."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from provisioner.capacity.explain import Explanation, Verdict, explain
from provisioner.capacity.plant import Condition, Plant, ProviderState, Tally
from provisioner.config import Limits, Provider, Template
from provisioner.model.agent import AgentState
from provisioner.routing.match import Router

TEMPLATES = (
    Template(name="small", labels=("maven", "linux"), providers=("box",), priority=1),
    Template(name="maven", labels=("maven", "image={image}"), providers=("box", "vms"), priority=10, max_agents=2),
    Template(name="windows", labels=("windows",), providers=("vms",)),
)
PLANT = Plant.of(
    templates=TEMPLATES,
    providers=[
        Provider(name="box", backend="docker", max_agents=1),
        Provider(name="vms", backend="docker", max_agents=5),
        Provider(name="old", backend="docker", max_agents=5),
    ],
    limits=Limits(),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class One:
    template: str = "maven"
    provider: str = "box"
    state: AgentState = AgentState.RUNNING
    controller: str = "main"
    labels: tuple[str, ...] = ("maven",)


def ask(label: str | None, *agents: One, agent: str | None = None, also: tuple[str, ...] = ()) -> Explanation:
    routing = Router(TEMPLATES).match_label(label)
    return explain(f"label {label}", routing, plant=PLANT, tally=Tally.of(agents), agent=agent, also=also)


def test_it_names_the_template_and_the_provider_and_why_each_other_template_does_not_serve() -> None:
    assert ask("maven && image=x", One()).lines() == (
        "label maven && image=x: template maven serves it, provider vms would take it now",
        "  next: an agent is started at vms",
        "  template maven: yes, on vms",
        "  template small: no: it does not have the label image=x",
        "  template windows: no: it does not have the labels maven, image=x",
        "  provider box: wait: provider box is full (1 of 1 agents)",
        "  provider vms: yes: it has room and is asked first",
        "  provider old: no: template maven does not run there",
    )


def test_it_says_what_a_request_waits_for_and_that_lower_templates_do_not_step_in() -> None:
    assert ask("maven", One(), One()).lines() == (
        "label maven: template maven serves it; it waits: template maven is at its maximum (2 of 2 agents)",
        "  next: an agent is started as soon as one of the 2 agents of template maven is gone",
        "  template maven: wait: template maven is at its maximum (2 of 2 agents)",
        "  template small: no: it matches too, but template maven comes before it and alone serves the item",
        "  template windows: no: it does not have the label maven",
        "  provider box: wait: provider box is full (2 of 1 agents)",
        "  provider vms: wait: it has room, but template maven is at its maximum (2 of 2 agents)",
        "  provider old: no: template maven does not run there",
    )


def test_it_says_that_no_template_serves_once_where_all_say_the_same() -> None:
    told = ask(None)
    assert told.verdict is Verdict.NO
    assert told.lines()[0] == "label None: no template serves it: the job asks for no label"
    assert ask("arm&&x").lines()[0] == "label arm&&x: no template serves it: it does not have the labels arm, x"
    assert ask("maven&&windows").lines()[0].endswith("every template declines, each for its own reason")


def test_without_any_template_it_says_so() -> None:
    told = explain("label x", Router(()).match_label("x"), plant=PLANT, tally=Tally())
    assert told.lines() == (
        "label x: no template serves it: no template is configured",
        "  next: nothing from here: it is left to other nodes and clouds",
        "  provider box: no: no template serves it",
        "  provider vms: no: no template serves it",
        "  provider old: no: no template serves it",
    )


def test_a_request_with_an_agent_waits_for_nothing() -> None:
    told = ask("maven", One(), One(), agent="maven-abc")
    assert told.verdict is Verdict.YES
    assert told.provider is None
    assert told.lines()[0] == "label maven: agent maven-abc serves it already"
    assert told.next_step == "its build starts as soon as agent maven-abc is connected"


def test_what_else_keeps_it_waiting_is_told_too() -> None:
    told = ask("windows", also=("its last launch failed; it is tried again at 12:00:00 UTC",))
    assert told.verdict is Verdict.WAIT
    assert told.provider is None
    assert told.reasons == ("its last launch failed; it is tried again at 12:00:00 UTC",)
    assert told.next_step == "an agent is started at vms"


def test_the_next_step_names_every_way_to_the_agent() -> None:
    half = replace(
        PLANT,
        limits=Limits(labels={"maven": 1}),
        conditions={
            "box": Condition(state=ProviderState.DRAINING),
            "vms": Condition(state=ProviderState.COOLING_DOWN, until="12:00:00 UTC"),
        },
        controllers={"main": 1},
    )
    routing = Router(TEMPLATES).match_label("maven")
    told = explain("it", routing, plant=half, tally=Tally.of([One(template="small")]), controller="main")
    assert told.reasons[:2] == (
        "controller main is at its maximum (1 of 1 agents)",
        "limits.labels reached for maven (1 of 1)",
    )
    assert told.next_step == (
        "an agent is started as soon as the agent of controller main is gone and the agent with the label maven is "
        "gone, and somebody says `provisioner resume box` or vms is tried again at 12:00:00 UTC"
    )


def test_the_same_goes_out_as_json() -> None:
    told = json.loads(json.dumps(ask("maven && image=x").as_dict()))
    assert told["verdict"] == "yes"
    assert told["provider"] == "box"
    assert told["templates"][0] == {
        "template": "maven",
        "verdict": "yes",
        "provider": "box",
        "labels": ["maven", "image=x"],
        "reasons": [],
    }
