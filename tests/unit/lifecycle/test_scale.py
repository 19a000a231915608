"""What one pass looks at, however much waits; counted, since time on a busy machine says nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from provisioner.model.queue import ItemKind, QueueItem, RequestKey
from provisioner.routing.match import Routing
from tests.unit.lifecycle.conftest import House

TEMPLATES, PROVIDERS = 50, 20


def items(number: int) -> list[QueueItem]:
    keys = (RequestKey(controller="main", queue_id=n, since_ms=n, task=f"job/j{n}/") for n in range(1, number + 1))
    return [
        QueueItem(key=key, kind=ItemKind.FREESTYLE, job=f"j{key.queue_id}", label=f"l{key.queue_id % TEMPLATES}")
        for key in keys
    ]


async def large(make_house: Callable[..., House]) -> House:
    names = [f"p{n}" for n in range(PROVIDERS)]
    house = make_house(
        launching=20,
        more_providers=[{"name": name, "backend": "docker", "max_agents": 50} for name in names],
        more_templates=[
            {
                "name": f"t{n}",
                "labels": [f"l{n}"],
                "providers": [names[(n + k) % PROVIDERS] for k in range(4)],
                "image": "x:1",
            }
            for n in range(TEMPLATES)
        ],
    )
    await house.until(lambda: house.desk.controllers["main"].seen and all(p.up for p in house.desk.providers.values()))
    return house


class Looks:
    """Counts the items that the planner routes."""

    def __init__(self, house: House) -> None:
        self.count = 0
        self._match = house.engine.planner._router.match
        house.engine.planner._router.match = self  # type: ignore[method-assign]

    def __call__(self, item: QueueItem) -> Routing:
        self.count += 1
        return self._match(item)


@pytest.mark.parametrize("number", [1_000, 10_000])
async def test_however_many_wait_a_pass_looks_only_at_those_that_could_be_placed(
    make_house: Callable[..., House], number: int
) -> None:
    house = await large(make_house)
    for item in items(number):
        house.desk.book.see(item)
    looks = Looks(house)
    house.engine.planner.plan()
    assert looks.count == TEMPLATES * 20  # of each template as many as may be launching
    assert len(house.desk.agents) == 20
    # taking turns: nobody has two while another one has none
    assert max(Counter(task.agent.template for task in house.desk.agents.values()).values()) == 1
    house.engine.planner.plan()
    assert looks.count == TEMPLATES * 20 + TEMPLATES
    assert len(house.desk.agents) == 20


async def test_an_item_is_found_by_its_id_also_when_the_id_came_again(make_house: Callable[..., House]) -> None:
    house = await large(make_house)
    old, *_ = items(1)
    from dataclasses import replace

    new = replace(old, key=replace(old.key, since_ms=99))
    house.desk.book.see(old)
    house.desk.book.see(new)
    found = house.desk.book.find("main", 1)
    assert found is not None
    assert found.item == new
    house.desk.book.gone(old.key)
    assert house.desk.book.find("main", 1) == found
    house.desk.book.gone(new.key)
    assert house.desk.book.find("main", 1) is None
