"""Which templates serve an item: labels, place holders, jobs, controllers, order, reasons."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from provisioner.config import Template
from provisioner.model.queue import ItemKind, QueueItem, RequestKey
from provisioner.routing.match import Decline, Match, Router, TemplateRules, match


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    name: str = "maven"
    labels: tuple[str, ...] = ("maven", "linux")
    controllers: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    priority: int = 0


def item(label: str | None, *, job: str = "team-a/app", controller: str = "main", queue_id: int = 1) -> QueueItem:
    key = RequestKey(controller=controller, queue_id=queue_id, since_ms=1, task=f"job/{job}/")
    return QueueItem(key=key, kind=ItemKind.FREESTYLE, job=job, label=label)


def reasons(label: str | None, rules: TemplateRules, *, job: str = "team-a/app", controller: str = "main") -> str:
    (answer,) = match(item(label, job=job, controller=controller), [rules]).answers
    assert isinstance(answer, Decline), answer
    return "; ".join(answer.reasons)


def test_a_template_serves_what_its_labels_satisfy_and_its_node_carries_them() -> None:
    assert match(item("linux && !windows"), [Rules()]).winner == Match(template="maven", labels=("maven", "linux"))


def test_a_templates_name_is_not_a_label() -> None:
    assert reasons("maven", Rules(labels=("linux",))) == "it does not have the label maven"


def test_the_highest_priority_comes_first_and_then_file_order() -> None:
    templates = [Rules(name="low"), Rules(name="first", priority=5), Rules(name="second", priority=5)]
    routing = match(item("linux"), templates)
    assert [answer.template for answer in routing.answers] == ["first", "second", "low"]
    assert routing.winner is routing.matches[0]
    assert routing.winner.template == "first"


def test_every_template_answers_and_the_winner_is_the_first_that_matches() -> None:
    routing = match(item("windows"), [Rules(name="high", priority=9), Rules(name="win", labels=("windows",))])
    assert routing.winner is not None
    assert routing.winner.template == "win"
    assert [decline.template for decline in routing.declines] == ["high"]


def test_an_item_without_a_label_is_declined() -> None:
    assert reasons(None, Rules()) == "the job asks for no label"


def test_a_text_that_is_no_expression_is_declined_by_all_with_the_place() -> None:
    routing = match(item("maven && (linux"), [Rules(), Rules(name="other", labels=("x",))])
    assert routing.winner is None
    for decline in routing.declines:
        assert decline.reasons == (
            "label expression 'maven && (linux': a parenthesis that is not closed at character 10",
        )


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("maven && arm", "it does not have the label arm"),
        ("arm && gpu && linux", "it does not have the labels arm, gpu"),
        ("!linux", "its labels (maven, linux) do not satisfy !linux"),
        ("&&".join(f"l{n}" for n in range(7)), "it does not have the labels l0, l1, l2, l3, l4 and 2 more"),
    ],
)
def test_a_decline_says_what_is_missing(label: str, words: str) -> None:
    assert reasons(label, Rules()) == words


def test_all_reasons_are_told_at_once() -> None:
    rules = Rules(jobs=("team-b/**",), controllers=("east", "west"))
    assert reasons("windows", rules) == (
        "it does not have the label windows; it serves controllers east, west only, not main; "
        "the job's full name fits none of its `jobs` (team-b/**)"
    )


@pytest.mark.parametrize(
    ("glob", "job", "fits"),
    [
        ("team-a/**", "team-a/app", True),
        ("team-a/**", "team-a/x/y/z", True),
        ("team-a/**", "team-a", False),
        ("team-a/**", "team-ab/app", False),
        ("team-a/*", "team-a/app", True),
        ("team-a/*", "team-a/x/y", False),
        ("*", "app", True),
        ("*", "team-a/app", False),
        ("**", "team-a/app", True),
        ("**/deploy", "deploy", True),
        ("**/deploy", "a/b/deploy", True),
        ("**/deploy", "a/predeploy", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/**/z", "a/b/z", True),
        ("**/**", "a/b", True),
        ("app-?", "app-1", True),
        ("app-?", "app-12", False),
        ("app-?", "app-/", False),
        ("app.1", "appx1", False),
        ("app+(1)", "app+(1)", True),
        ("App", "app", False),
        ("re*/PR-*", "repo/PR-17", True),
        ("a**b", "a/b", False),
        ("a**b", "axxb", True),
    ],
)
def test_job_globs(glob: str, job: str, fits: bool) -> None:
    routing = match(item("linux", job=job), [Rules(jobs=("nothing", glob))])
    assert (routing.winner is not None) is fits


def test_a_place_holder_takes_its_value_from_the_label_that_is_asked_for() -> None:
    rules = Rules(labels=("maven", "image={image}", "linux"))
    routing = match(item('linux && "image=maven:3.9"'), [rules])
    assert routing.winner == Match(
        template="maven", labels=("maven", "image=maven:3.9", "linux"), bindings={"image": "maven:3.9"}
    )


@pytest.mark.parametrize(
    ("label", "bindings"),
    [
        ("maven", {}),
        ("maven && !image=x", {}),
        ("maven || image=x", {}),  # nothing is filled without need
        ("maven -> image=x", {"image": "x"}),
        ("image=x || image=y", {"image": "x"}),
        ("!image=x && (image=x || image=y)", {"image": "y"}),
        ("image=x && cpus=4", {"image": "x", "cpus": "4"}),
        ("cpus=4 && !image=x", {"cpus": "4"}),
    ],
)
def test_place_holders_are_filled_so_that_the_expression_holds(label: str, bindings: dict[str, str]) -> None:
    winner = match(item(label), [Rules(labels=("maven", "image={image}", "cpus={cpus}"))]).winner
    assert winner is not None
    assert winner.bindings == bindings
    assert set(winner.labels) == {"maven", *(f"{name}={value}" for name, value in bindings.items())}


def test_a_place_holder_stands_for_one_thing_only() -> None:
    words = "its place holders cannot stand for all of the labels image=x, image=y at once"
    assert reasons("image=x && image=y", Rules(labels=("image={image}",))) == words
    assert reasons("image=x && img=y", Rules(labels=("image={image}", "img={image}"))).startswith("its place holders")
    same = match(item("image=x && img=x"), [Rules(labels=("image={image}", "img={image}"))])
    assert same.winner is not None
    assert same.winner.bindings == {"image": "x"}


def test_a_place_holder_is_never_empty_and_several_share_one_label() -> None:
    assert reasons("image=", Rules(labels=("image={image}",))) == "it does not have the label image="
    winner = match(item("jdk-17-alpine"), [Rules(labels=("jdk-{version}-{system}",))]).winner
    assert winner is not None
    assert winner.bindings == {"version": "17", "system": "alpine"}


def test_a_place_holder_that_stands_twice_in_a_label_is_the_same_both_times() -> None:
    rules = Rules(labels=("{os}-on-{os}",))
    assert match(item("linux-on-linux"), [rules]).winner is not None
    assert match(item("linux-on-windows"), [rules]).winner is None


def test_a_hostile_number_of_ways_to_fill_place_holders_is_cut_short() -> None:
    rules = Rules(labels=("{a}1", "{b}1", "{c}1", "{d}1"))
    label = f"no && ({' || '.join(f'x{n}-1' for n in range(300))})"
    assert reasons(label, rules) == "there are too many ways to fill its place holders; write a simpler expression"


def test_a_label_alone_leaves_jobs_and_controllers_out() -> None:
    router = Router([Rules(jobs=("team-b/**",), controllers=("east",))])
    assert router.match_label("linux").winner is not None
    assert router.match_label("linux", job="team-b/x").winner is not None
    assert router.match_label("linux", job="team-a/x").winner is None
    assert router.match_label("linux", controller="main").winner is None


def test_a_router_answers_as_a_fresh_one_whatever_it_was_asked_before() -> None:
    templates = [Rules(), Rules(name="b", labels=("b",), jobs=("x/**",)), Rules(name="c", controllers=("east",))]
    router = Router(templates)
    items = [
        item(label, job=job, controller=controller)
        for label in (None, "linux", "b", "b || maven", "((")
        for job in ("x/1", "y/1")
        for controller in ("main", "east")
    ]
    for one in items * 2:
        assert router.match(one) == match(one, templates)


def test_equal_labels_share_one_routing_so_that_a_full_queue_costs_look_ups_only() -> None:
    router = Router([Rules(), Rules(name="closed", jobs=("team-b/**",))])
    routings = {id(router.match(item("linux", job=f"team-a/{n}", queue_id=n))) for n in range(1000)}
    assert len(routings) == 1


def test_the_configurations_own_templates_are_rules() -> None:
    template = Template(name="maven", labels=("maven", "image={image}"), providers=("big-box",), jobs=("team-a/**",))
    assert match(item("image=x"), [template]).winner == Match(
        template="maven", labels=("maven", "image=x"), bindings={"image": "x"}
    )
