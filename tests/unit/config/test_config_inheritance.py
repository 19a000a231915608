"""Templates that extend others."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner.config import Template
from tests.unit.config.config_samples import changed, examined, told, told_of

BASE: dict[str, Any] = {
    "name": "base",
    "labels": ["base"],
    "providers": ["box"],
    "image": {"docker": "base:1"},
    "env": {"A": "1", "B": "2"},
    "resources": {"cpus": 2, "memory": "1g"},
    "jobs": ["team/**"],
    "retries": 3,
}


def resolved(*templates: dict[str, Any]) -> dict[str, Template]:
    settings = examined(("templates", list(templates))).settings
    assert settings is not None, told(("templates", list(templates)))
    return {template.name: template for template in settings.templates}


def test_a_child_has_its_parents_keys_where_it_has_none_and_lists_are_replaced() -> None:
    child = {"name": "b", "extends": "base", "labels": ["b"], "env": {"B": "3"}, "resources": {"memory": "2g"}}
    made = resolved(BASE, child)
    assert made["b"].labels == ("b",)
    assert made["b"].providers == ("box",)
    assert made["b"].env == {"A": "1", "B": "3"}
    assert (made["b"].resources.cpus, made["b"].resources.memory_bytes) == (2, 2 << 30)
    assert (made["b"].retries, made["b"].jobs) == (3, ("team/**",))
    assert made["base"].env == {"A": "1", "B": "2"}


def test_it_goes_over_several_generations_in_any_order_of_the_file() -> None:
    made = resolved(
        {"name": "c", "extends": "b", "retries": 0}, {"name": "b", "extends": "base", "labels": ["b"]}, BASE
    )
    assert (made["c"].labels, made["c"].retries, made["c"].env) == (("b",), 0, {"A": "1", "B": "2"})


def test_what_the_parent_changes_changes_the_childs_version() -> None:
    child = {"name": "b", "extends": "base", "labels": ["b"]}
    before = resolved(BASE, child)["b"].version
    assert resolved({**BASE, "env": {"A": "9"}}, child)["b"].version != before


def test_an_image_by_backend_is_joined_and_one_image_replaces_it() -> None:
    assert resolved(BASE, {"name": "b", "extends": "base", "image": "one:1"})["b"].image == "one:1"


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (
            [{**BASE, "extends": "c"}, {"name": "b", "extends": "base"}, {"name": "c", "extends": "b"}],
            [
                "templates[0].extends: goes in a circle (base, c, b, base); let one of them extend none",
                "templates[1].extends: goes in a circle (b, base, c, b); let one of them extend none",
                "templates[2].extends: goes in a circle (c, b, base, c); let one of them extend none",
            ],
        ),
        (
            [BASE, {"name": "b", "extends": "bse"}],
            ['templates[1].extends: "bse" is none of the templates; write one of base, b'],
        ),
        (
            [BASE, {"name": "b", "extends": "bse"}, {"name": "c", "extends": "b"}],
            ['templates[1].extends: "bse" is none of the templates; write one of base, b, c'],
        ),
        ([BASE, {"name": "b", "extends": "b"}], ["templates[1].extends: names the template itself; name another one"]),
    ],
    ids=["circle", "unknown", "unknown above", "itself"],
)
def test_a_parent_that_cannot_be_is_told_and_nothing_else(templates: list[dict[str, Any]], said: list[str]) -> None:
    assert told(("templates", templates)) == said


def test_what_is_wrong_in_the_parent_is_told_there_and_once() -> None:
    lines = told_of(
        "id: test\ncontrollers: [{name: main, url: 'http://h/', user: u, token: {env: T}}]\n"
        "providers: [{name: box, backend: docker, max_agents: 1}]\n"
        "templates:\n"
        "  - name: base\n    labels: [a]\n    providers: [bx]\n    image: 'a b'\n    resources: {cpus: -1}\n"
        "  - name: b\n    extends: base\n    labels: [b]\n    resources: {memory: 1}\n"
    )
    assert [line.partition(" ")[0] for line in lines] == [
        "p.yaml:7:",
        "p.yaml:8:",
        "p.yaml:9:",
        "p.yaml:13:",
    ]


def test_a_key_that_is_not_inherited_well_is_told_at_the_child() -> None:
    child = {"name": "b", "extends": "base", "providers": ["here", "box"], "labels": ["base", "base"]}
    (line,) = told(("templates", [BASE, child]))
    assert line.startswith("templates[1].labels[1]: ")


@pytest.mark.parametrize("junk", [[], [1], [[]], ["x"], [{"name": []}], [{"name": "a", "extends": []}], {}, "x", None])
def test_any_shape_of_templates_is_told_and_never_raises(junk: Any) -> None:
    assert told(("templates", junk))


def test_a_thousand_generations_are_no_trouble() -> None:
    chain = [{**BASE, "name": "t0"}, *({"name": f"t{n}", "extends": f"t{n - 1}"} for n in range(1, 1000))]
    value = changed(("templates", chain))
    from provisioner.config.inheritance import inherit

    last = inherit(value).value["templates"][-1]  # type: ignore[index]
    assert last["retries"] == 3
