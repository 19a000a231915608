"""What a person is told who asks why a build waits."""

from __future__ import annotations

import json
from dataclasses import dataclass

from provisioner.capacity.explain import Explanation, Verdict, explain
from provisioner.capacity.room import Plant, Tally
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
    ],
    limits=Limits(),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class One:
    template: str = "maven"
    provider: str = "box"
    state: AgentState = AgentState.RUNNING


def ask(label: str | None, *agents: One, agent: str | None = None, also: tuple[str, ...] = ()) -> Explanation:
    routing = Router(TEMPLATES).match_label(label)
    return explain(f"label {label}", routing, plant=PLANT, tally=Tally.of(agents), agent=agent, also=also)


def test_it_names_the_template_and_the_provider_and_why_each_other_template_does_not_serve() -> None:
    assert ask("maven && image=x", One()).lines() == (
        "label maven && image=x: template maven serves it, provider vms would take it now",
        "  maven: yes, on vms",
        "  small: no: it does not have the label image=x",
        "  windows: no: it does not have the labels maven, image=x",
    )


def test_it_says_what_a_request_waits_for_and_that_lower_templates_do_not_step_in() -> None:
    assert ask("maven", One(), One()).lines() == (
        "label maven: template maven serves it; it waits: template maven is at its maximum (2 of 2 agents)",
        "  maven: wait: template maven is at its maximum (2 of 2 agents)",
        "  small: no: it matches too, but template maven comes before it and alone serves the item",
        "  windows: no: it does not have the label maven",
    )


def test_it_says_that_no_template_serves_once_where_all_say_the_same() -> None:
    told = ask(None)
    assert told.verdict is Verdict.NO
    assert told.lines()[0] == "label None: no template serves it: the job asks for no label"
    assert ask("arm&&x").lines()[0] == "label arm&&x: no template serves it: it does not have the labels arm, x"
    assert ask("maven&&windows").lines()[0].endswith("every template declines, each for its own reason")


def test_without_any_template_it_says_so() -> None:
    told = explain("label x", Router(()).match_label("x"), plant=PLANT, tally=Tally())
    assert told.lines() == ("label x: no template serves it: no template is configured",)


def test_a_request_with_an_agent_waits_for_nothing() -> None:
    told = ask("maven", One(), One(), agent="maven-abc")
    assert told.verdict is Verdict.YES
    assert told.provider is None
    assert told.lines()[0] == "label maven: agent maven-abc serves it already"


def test_what_else_keeps_it_waiting_is_told_too() -> None:
    told = ask("windows", also=("its last launch failed; it is tried again at 12:00:00 UTC",))
    assert told.verdict is Verdict.WAIT
    assert told.provider is None
    assert told.reasons == ("its last launch failed; it is tried again at 12:00:00 UTC",)


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
