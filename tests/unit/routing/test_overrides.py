"""What a build may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.config import Template
from provisioner.routing.overrides import Granted, Refused, override

OVERRIDES = {
    "image": {"parameter": "IMG", "allow": ["maven:*", "registry.example.org/ci/*"]},
    "memory": {"parameter": "MEM", "max": "8g"},
    "cpus": {"parameter": "CPUS", "max": 4.0},
    "pids": {"parameter": "PIDS", "allow": ["100", "200"]},
    "shm": {"parameter": "SHM", "allow": ["1g"], "max": "2g"},
}


def template(**keys: Any) -> Template:
    return Template.model_validate(
        {
            "name": "maven",
            "labels": ["maven", "image={image}"],
            "providers": ["box"],
            "image": {"docker": "maven:3.9"},
            "resources": {"memory": "1g", "cpus": 1},
            "overrides": OVERRIDES,
            **keys,
        }
    )


def asked(parameters: dict[str, str], **bindings: str) -> Template | str:
    match override(template(), parameters, bindings):
        case Granted(spec=spec):
            return Template.from_spec(spec)
        case Refused(message=message):
            return message


def test_a_build_that_asks_for_nothing_gets_the_template_as_it_is() -> None:
    assert override(template(), {"OTHER": "x", "IMG": "  "}, {}) == Granted(spec=template().spec())


def test_what_is_allowed_goes_into_the_templates_own_keys() -> None:
    wishes = {"IMG": "maven:3.8-jdk", "MEM": "8g", "CPUS": "2.5", "PIDS": "200", "SHM": "1g"}
    granted = override(template(), wishes, {})
    assert isinstance(granted, Granted)
    made = Template.from_spec(granted.spec)
    assert made.image_for("docker") == "maven:3.8-jdk"
    assert (made.resources.memory_bytes, made.resources.cpus, made.resources.pids) == (8 << 30, 2.5, 200)
    assert made.resources.shm_bytes == 1 << 30
    assert granted.lines[0] == "This build asks by parameter IMG for image maven:3.8-jdk"
    assert {key for key in granted.spec if granted.spec[key] != template().spec()[key]} == {"image", "resources"}


def test_a_place_holder_of_a_label_asks_for_the_override_of_its_name() -> None:
    made = asked({}, image="registry.example.org/ci/deep/tool:7")
    assert isinstance(made, Template)
    assert made.image_for("docker") == "registry.example.org/ci/deep/tool:7"
    assert isinstance(asked({"IMG": "maven:3"}, image="maven:3"), Template)
    assert asked({"IMG": "maven:3"}, image="maven:4") == (
        "parameter IMG asks for image 'maven:3' and its label for 'maven:4'"
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"IMG": "alpine"},
            "parameter IMG asks for image 'alpine', which template maven does not allow; allowed: maven:*, registry.",
        ),
        ({"MEM": "9g"}, "parameter MEM asks for memory '9g', more than the 8g that template maven allows"),
        ({"MEM": "much"}, "parameter MEM asks for memory 'much', which is not a size"),
        ({"MEM": "4"}, "what the build asks for does not fit template maven"),
        ({"CPUS": "4.5"}, "parameter CPUS asks for cpus '4.5', more than the 4 that template maven allows"),
        ({"CPUS": "0"}, "parameter CPUS asks for cpus '0', which is no number above 0"),
        ({"CPUS": "1e3"}, "parameter CPUS asks for cpus '1e3', which is no number above 0"),
        ({"PIDS": "150"}, "parameter PIDS asks for pids '150', which template maven does not allow; allowed: 100, 200"),
        ({"PIDS": "100.5"}, "parameter PIDS asks for pids '100.5', which is no whole number"),
        ({"SHM": "2g"}, "parameter SHM asks for shm '2g', which template maven does not allow; allowed: 1g"),
        ({"IMG": "maven:" + "x" * 600}, "parameter IMG asks for image 'maven:xxx"),
    ],
)
def test_what_is_not_allowed_is_refused_in_plain_words(parameters: dict[str, str], message: str) -> None:
    said = asked(parameters)
    assert isinstance(said, str)
    assert said.startswith(message)


@pytest.mark.parametrize(
    "image",
    [
        "maven:5000/evil",  # a registry that is called maven
        "maven:5000/evil:3",
        "registry.example.org/ci/../secret/tool",
        "registry.example.org/ci/",
        "registry.example.org/ci/a b",
        "maven:3 --privileged",
        "maven:3\n--privileged",
        "-v/:/host",
        "maven:3;id",
        "maven:$(id)",
        "maven:\N{CYRILLIC SMALL LETTER A}",
        "evil/maven:3",
        "registry.example.org.evil.org/ci/a",
        "MAVEN:3",
        "maven",
    ],
)
def test_no_trick_gets_another_image_through(image: str) -> None:
    said = asked({"IMG": image})
    assert isinstance(said, str)
    assert "\n" not in said


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_whatever_text_is_asked_for_only_allowed_values_come_out(image: str, memory: str, cpus: str) -> None:
    made = asked({"IMG": image, "MEM": memory, "CPUS": cpus})
    if isinstance(made, str):
        assert made.isprintable()
        return
    given_image = made.image_for("docker")
    assert given_image is not None
    assert given_image == "maven:3.9" or given_image.startswith(("maven:", "registry.example.org/ci/"))
    assert made.resources.memory_bytes is not None
    assert made.resources.memory_bytes <= 8 << 30
    assert made.resources.cpus is not None
    assert 0 < made.resources.cpus <= 4


def test_a_star_alone_allows_every_image_and_stays_in_its_segment_elsewhere() -> None:
    def allows(pattern: str, image: str) -> bool:
        open_to = template(overrides={"image": {"parameter": "IMG", "allow": [pattern]}})
        return isinstance(override(open_to, {"IMG": image}, {}), Granted)

    assert allows("*", "any.org:5000/a/b:1")
    assert allows("ci/*/tool:*", "ci/a/tool:1")
    assert not allows("ci/*/tool:*", "ci/a/b/tool:1")
    assert not allows("maven*", "maven.evil.org/x")
    assert allows("tool:1.*", "tool:1.2")
    assert not allows("tool:1.*", "tool:1x2")
