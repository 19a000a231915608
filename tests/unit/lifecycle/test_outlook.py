"""What is said of a build before it is queued, and what becomes of it: the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from provisioner.capacity.explain import Verdict
from provisioner.lifecycle.operations import Operations, Unknown
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.errors import LaunchError, Reason
from provisioner.model.request import RequestState
from tests.fakes.backend import FakeBackend
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House, settings

IMAGES = {"image": {"parameter": "IMG", "allow": ["ok:*"]}}
_template = st.fixed_dictionaries(
    {
        "labels": st.lists(st.sampled_from(["a", "b", "c", "image={image}"]), min_size=1, unique=True),
        "providers": st.lists(st.sampled_from(["box", "den"]), min_size=1, unique=True),
        "priority": st.integers(0, 2),
        "jobs": st.sampled_from([["**"], ["team/**"], ["other"]]),
    }
)
_label = st.sampled_from(
    ["a", "b", "a && b", "a || c", "!c", "a -> b", '"image=ok:1"', '"image=evil"', 'a && "image=ok:2"', "z"]
)


@st.composite
def _clusters(draw: st.DrawFn) -> dict[str, Any]:
    """One cluster, and who is in the way: what is full, drained, cooling down or out of reach."""
    templates = [
        {"name": f"t{n}", "image": "ok:0", "overrides": IMAGES, "retries": 9, **draw(_template)} for n in range(3)
    ]
    return {
        "templates": templates,
        "box_agents": draw(st.integers(1, 2)),
        "agents": draw(st.integers(1, 3)),
        "drained": draw(st.sets(st.sampled_from(["box", "den"]))),
        "down": draw(st.booleans()),
        "cooling": draw(st.booleans()),
        "quiet": draw(st.sampled_from([False, False, False, False, True])),
        "before": draw(st.integers(0, 3)),
    }


async def _house(folder: Path, cluster: dict[str, Any]) -> House:
    first, *more = cluster["templates"]
    configured = settings(
        folder,
        **first,
        more_templates=more,
        more_providers=[{"name": "den", "backend": "docker", "max_agents": 1}],
        box_agents=cluster["box_agents"],
        agents=cluster["agents"],
    )
    house = House(configured, FakeController(), FakeBackend())
    house.revive()
    await house.until(lambda: house.desk.controllers["main"].seen and all(p.up for p in house.desk.providers.values()))
    if cluster["cooling"]:
        house.backend.fail_with = LaunchError("it does not start", reason=Reason.CREATE_REJECTED)
    for number in range(cluster["before"]):
        house.controller.queue(label=cluster["templates"][0]["labels"][0].replace("image={image}", '"image=ok:9"'),
                               job="team/before")  # fmt: skip
        await house.until(lambda number=number: len(house.desk.book) + len(house.desk.book.unserved) == number + 1)  # type: ignore[misc]
    await house.until(lambda: _still(house), "all that can be placed is")
    house.backend.fail_with = None
    for name in cluster["drained"]:
        Operations(house.engine).drain(name)
    if cluster["down"]:
        house.desk.providers["den"].up, house.desk.providers["den"].problem = False, "no route"
    house.controller.quieting_down = cluster["quiet"]
    house.controller.show()
    await house.until(lambda: house.desk.controllers["main"].quieting_down is cluster["quiet"])
    await house.until(lambda: _still(house))
    return house


def _still(house: House) -> bool:
    """Nothing is on its way but agents that wait for their connection."""
    house.engine.planner.plan()
    return all(task.agent.state.value == "connecting" for task in house.desk.agents.values()) and not any(
        request.state is RequestState.FAILING for request in house.desk.book
    )


async def _what_is_said_happens(cluster: dict[str, Any], label: str, job: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        house = await _house(Path(folder), cluster)
        try:
            outlook, known = Outlook(house.engine), set(house.desk.agents)
            said = outlook.explain_label(label, job=job)
            item = house.controller.queue(label=label, job=job)
            await house.until(
                lambda: house.desk.book.get(item.key) or item.key in house.desk.book.unserved or house.controller.failed
            )
            await house.until(lambda: _still(house))
            request = house.desk.book.get(item.key)
            match said.verdict:
                case Verdict.YES:
                    assert request is not None
                    assert request.state is RequestState.SERVED, (said, request)
                    agent = house.desk.agents[request.agent or ""].agent
                    assert (agent.template, agent.provider) == (said.template, said.provider)
                case Verdict.WAIT:
                    assert request is not None
                    assert request.state is RequestState.WAITING, (said, request)
                    assert set(house.desk.agents) == known
                    told = outlook.explain_item(item.key.queue_id)
                    assert (told.verdict, told.reasons, told.next_step) == (said.verdict, said.reasons, said.next_step)
                    (waiting,) = [w for w in outlook.waiting() if w.request.item.key == item.key]
                    assert (waiting.reasons, waiting.next_step) == (said.reasons, said.next_step)
                case Verdict.NO if said.template is None:
                    assert item.key in house.desk.book.unserved
                case Verdict.NO:
                    assert request is None
                    ((_, reason, message, _),) = house.controller.failed
                    assert said.reasons == (f"{message} ({reason})",)
        finally:
            await house.kill()


@given(_clusters(), _label, st.sampled_from(["team/app", "other", "third"]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_explain_says_of_an_expression_is_what_becomes_of_a_build_that_asks_for_it(
    cluster: dict[str, Any], label: str, job: str
) -> None:
    asyncio.run(_what_is_said_happens(cluster, label, job))


async def test_a_label_that_asks_for_what_is_not_allowed_is_no_yes(tmp_path: Path) -> None:
    configured = settings(tmp_path, labels=["maven", "image={image}"], overrides=IMAGES)
    house = House(configured, FakeController(), FakeBackend())
    house.revive()
    try:
        await house.until(lambda: house.desk.controllers["main"].seen and house.desk.providers["box"].up)
        said = Outlook(house.engine).explain_label('"image=evil"')
        why = "its label asks for image 'evil', which template maven does not allow; allowed: ok:* (override_refused)"
        assert said.lines() == (
            f'label "image=evil": template maven would serve it, and its build is ended: {why}',
            "  next: its build ends with that reason",
            f"  template maven: no: {why}",
            "  provider box: no: nothing is started for it",
        )
        assert Outlook(house.engine).explain_label('"image=ok:1"').verdict is Verdict.YES
    finally:
        await house.kill()


@pytest.mark.parametrize("quiet", [True, False])
async def test_an_expression_waits_for_the_only_controller_too(tmp_path: Path, quiet: bool) -> None:
    house = House(settings(tmp_path), FakeController(), FakeBackend())
    house.revive()
    try:
        await house.until(lambda: house.desk.controllers["main"].seen and house.desk.providers["box"].up)
        house.controller.quieting_down = quiet
        house.controller.show()
        await house.until(lambda: house.desk.controllers["main"].quieting_down is quiet)
        said = Outlook(house.engine).explain_label("maven")
        assert (said.verdict is Verdict.WAIT) is quiet
        assert ("controller main is about to shut down and starts no builds" in said.reasons) is quiet
    finally:
        await house.kill()


async def told_of(house: House, queue_id: int) -> str:
    with pytest.raises(Unknown) as told:
        Outlook(house.engine).explain_item(queue_id)
    return told.value.message


async def test_an_item_that_left_the_queue_is_told_by_what_is_on_record(make_house: Callable[..., House]) -> None:
    house = make_house(retries=0)
    ran, cancelled, failed = (house.controller.queue() for _ in range(3))
    await house.until(lambda: len(house.controller.registered) == 3 and _still(house))
    agents = {key: task.agent.name for key, task in house.desk.by_request.items()}
    name = agents[ran.key]
    house.controller.connect(name)
    house.controller.start_build(name)
    await house.until(lambda: house.desk.agents[name].agent.state.value == "running")
    house.controller.finish_build(name)
    house.controller.cancel(cancelled)
    house.backend.end(agents[failed.key])
    await house.until(house.nothing_left)
    await house.until(lambda: house.controller.failed)
    ((_, reason, message, _),) = house.controller.failed
    await house.until(lambda: house.desk.book.get(failed.key) is None)
    queue = "is no longer in the queue of main:"
    assert (await told_of(house, 1)).startswith(
        f"item 1 {queue} its build (job/app/1/) ran on agent {name}, which is gone"
    )
    assert await told_of(house, 2) == (
        f"item 2 {queue} agent {agents[cancelled.key]}, which was made for it, is gone: its queue item was cancelled"
    )
    assert await told_of(house, 3) == f"item 3 {queue} its build was ended by the provisioner: {message} ({reason})"
    assert await told_of(house, 4) == (
        "no buildable item 4 is in the queue of main, and nothing is on record of it: it may have started elsewhere, "
        "been cancelled, or still be blocked"
    )


async def test_an_item_whose_agent_is_on_its_way_out_is_not_told_to_have_a_build(
    make_house: Callable[..., House],
) -> None:
    house = make_house()
    item = house.controller.queue()
    name = await house.agent()
    house.backend.down = LaunchError("no answer", reason=Reason.PROVIDER_UNREACHABLE, retryable=True)
    house.controller.cancel(item)
    await house.until(lambda: house.desk.agents[name].agent.state.value == "removing")
    said = Outlook(house.engine).explain_item(item.key.queue_id)
    assert said.next_step == "the agent is being removed: its queue item was cancelled"
    house.backend.down = None
    await house.until(house.nothing_left)
