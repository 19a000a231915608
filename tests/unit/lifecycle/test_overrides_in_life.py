"""Builds that ask for more, or for other things, than their template says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from provisioner.controller.port import FailOutcome
from tests.unit.lifecycle.conftest import House

ASKING = {
    "labels": ["maven", "image={image}"],
    "overrides": {
        "image": {"parameter": "IMG", "allow": ["maven:*"]},
        "memory": {"parameter": "MEM", "max": "8g"},
    },
}


@pytest.fixture
async def asking(make_house: Callable[..., House]) -> House:
    return make_house(**ASKING)


async def test_an_allowed_wish_is_what_the_instance_is_made_from(asking: House) -> None:
    asking.controller.queue(parameters={"IMG": "maven:4", "MEM": "2g"})
    name = await asking.agent()
    order = asking.backend.instances[name].order
    assert order.image == "maven:4"
    assert order.template["resources"]["memory"] == 2 << 30  # type: ignore[index]
    assert "This build asks by parameter IMG for image maven:4" in [t for _, _, t in asking.store.lines(name)]
    # the next build of the template gets the template
    asking.controller.queue()
    other = await asking.agent(besides={name})
    assert asking.backend.instances[other].order.image == "maven:3.9"


async def test_a_label_with_a_place_holder_names_the_image_and_is_on_the_node_only_where_it_was_asked_for(
    asking: House,
) -> None:
    asking.controller.queue(label='"image=maven:4"')
    first = await asking.agent()
    assert asking.backend.instances[first].order.image == "maven:4"
    assert asking.controller.nodes[first].order.labels == ("maven", "image=maven:4")
    asking.controller.queue(label="maven")
    second = await asking.agent(besides={first})
    assert asking.controller.nodes[second].order.labels == ("maven",)


@pytest.mark.parametrize(
    ("label", "parameters"), [("maven", {"IMG": "evil:1"}), ('"image=evil:1"', {}), ("maven", {"MEM": "9g"})]
)
async def test_a_wish_that_is_not_allowed_ends_the_build_without_a_launch(
    asking: House, label: str, parameters: dict[str, str]
) -> None:
    asking.controller.queue(label=label, parameters=parameters)
    await asking.until(lambda: asking.controller.failed)
    (_, reason, message, lines) = asking.controller.failed[0]
    assert reason == "override_refused"
    assert " asks for " in message
    assert lines[-1] == "What to do: Ask for a value that the template's `overrides` allow."
    assert not asking.controller.registered
    await asking.until(lambda: not list(asking.desk.book))


async def test_a_refused_wish_is_told_even_while_every_provider_is_full(make_house: Callable[..., House]) -> None:
    house = make_house(**ASKING, box_agents=1, agents=1)
    house.controller.queue()
    await house.agent()
    house.controller.queue(parameters={"IMG": "evil:1"})
    await house.until(lambda: house.controller.failed)


async def test_a_refused_wish_that_others_can_serve_is_spared_and_never_launched(asking: House) -> None:
    from datetime import timedelta

    asking.controller.fail_outcome = FailOutcome.SPARED
    asking.controller.queue(parameters={"IMG": "evil:1"})
    await asking.until(lambda: len(asking.controller.failed) == 1)
    await asking.until(lambda: [r.state.value for r in asking.desk.book] == ["waiting"])
    asking.clock.shift = timedelta(minutes=2)
    asking.desk.plan_again.set()
    await asking.until(lambda: len(asking.controller.failed) == 2)
    assert not asking.controller.registered
