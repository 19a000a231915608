"""Overflow, cooling down, a frozen engine and a frozen agent: on a real controller with two real engines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from controller import RealController

from tests import leaks
from tests.jenkins.docker_plant import WAITS
from tests.jenkins.two_engines import IMAGE, Door, TwoEngines
from tests.second_engine import SecondEngine, why_not

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

#: Long enough for an agent on a busy machine, short enough for those that never come.
CONNECT = "25s"
#: How an agent ends that finds the door shut: over WebSocket it does not wait until it opens.
SHUT = "(agent_exited)"


@pytest.fixture(scope="module")
def second(engine: docker.DockerClient) -> Iterator[SecondEngine]:
    if reason := why_not():
        pytest.skip(reason)
    if not engine.api.images(IMAGE):
        pytest.skip(f"the image {IMAGE} is missing; run jenkins-test/images.sh busybox")
    made = SecondEngine().with_tls()
    try:
        made.start()
        made.load(IMAGE)
        yield made
    finally:
        made.remove()


@pytest.fixture
def both(
    real_jenkins: RealController,
    engine: docker.DockerClient,
    second: SecondEngine,
    tmp_path: Path,
) -> Iterator[TwoEngines]:
    made = TwoEngines(real_jenkins, engine, second, tmp_path, leaks.new_owner())
    yield made
    made.end()


@pytest.fixture
def door(real_jenkins: RealController) -> Iterator[Door]:
    made = Door(int(real_jenkins.url.rsplit(":", 1)[1].strip("/")))
    yield made
    made.shut()


def test_what_one_engine_has_no_room_for_goes_to_the_other_and_the_rest_waits_and_is_told(both: TwoEngines) -> None:
    both.start(here={"max_agents": 1}, there={"max_agents": 1})
    jobs = [both.node_step(f"p{n}", f"sh '{WAITS}'") for n in range(3)]
    with both.watched() as most:
        for job in jobs:
            both.jenkins.queue_build(job)
        both.sidecar.until(
            lambda: both.sidecar.metric("agents") == 2 and both.sidecar.metric("requests", state="waiting") == 1,
            "both are full",
        )
        (waiting,) = [r for r in both.api("requests")["requests"] if r["state"] == "waiting"]
        late, waits = waiting["job"], "It has waited for "
        both.sidecar.until(lambda: waits in both.jenkins.console(late), "the wait is told")
        (line,) = [said for said in both.jenkins.console(late).splitlines() if waits in said]
        explained = both.api(f"explain?item={waiting['queue_id']}")
        both.sidecar.until(both.let_go, "all have ended", within_s=120)
        builds = [both.jenkins.wait_build(job, within_s=120) for job in jobs]
    assert line.endswith(f": {'; '.join(explained['reasons'])}. Next: {explained['next_step']}")
    assert explained["reasons"] == ["provider here is full (1 of 1 agents)", "provider there is full (1 of 1 agents)"]
    assert {p["provider"]: p["verdict"] for p in explained["providers"]} == {"here": "wait", "there": "wait"}
    assert [build["result"] for build in builds] == ["SUCCESS"] * 3
    assert sorted(both.provider_of(job) for job in jobs if job != late) == ["here", "there"]
    assert most == {"here": 1, "there": 1}
    both.nothing_left()


@pytest.fixture
def tiny(engine: docker.DockerClient, real_jenkins: RealController) -> Iterator[tuple[str, str]]:
    """A network of the first engine with room for one container, and the controller's address in it."""
    name, host = leaks.new_owner(), "198.19.254.1"
    pool = docker.types.IPAMPool(subnet="198.19.254.0/30", gateway=host)
    made = engine.api.create_network(name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))["Id"]
    door = Door(int(real_jenkins.url.rsplit(":", 1)[1].strip("/")), host=host)
    door.open()
    yield name, door.url
    door.shut()
    engine.api.remove_network(made)


def test_an_engine_without_a_free_address_is_full_whatever_its_configuration_says(
    tiny: tuple[str, str], both: TwoEngines
) -> None:
    """Four agents may be there, and one finds an address: the overflow goes to the other, and the rest waits."""
    network, agent_url = tiny
    both.start(here={"network": network, "agent_url": agent_url}, there={"max_agents": 1}, retries=0)
    jobs = [both.node_step(f"p{n}", f"sh '{WAITS}'") for n in range(3)]
    for job in jobs:
        both.jenkins.queue_build(job)
    both.sidecar.until(
        lambda: (
            both.sidecar.metric("agents", state="running") == 2
            and both.sidecar.metric("requests", state="waiting") == 1
        ),
        "both are full",
    )
    (waiting,) = [r for r in both.api("requests")["requests"] if r["state"] == "waiting"]
    assert sorted(waiting["waits_for"]) == [  # the one at which its launch failed would be asked last
        "provider here is full (1 of 1 agents): no address is free in its network",
        "provider there is full (1 of 1 agents)",
    ]
    assert both.paused("here") == []
    both.sidecar.until(both.let_go, "all have ended", within_s=120)
    for job in jobs:
        assert both.jenkins.wait_build(job, within_s=180)["result"] == "SUCCESS"
    refused = [event for event in both.logged("launch.failed") if event["reason"] == "no_address"]
    assert 1 <= len(refused) <= 5, "it is not tried again and again"
    assert "no_address" in "".join(both.jenkins.console(job) for job in jobs)
    both.nothing_left()


@pytest.mark.slow
def test_a_template_that_fails_at_one_engine_cools_down_there_over_a_restart_and_is_probed(
    both: TwoEngines, door: Door
) -> None:
    """Agents at the first engine cannot reach the controller: the door is shut. The builds go to the second one."""
    both.start(here={"agent_url": door.url}, timeouts={"connect": CONNECT}, retries=2)
    for number in range(3):
        job = both.freestyle(f"f{number}")
        both.jenkins.queue_build(job)
        assert both.jenkins.wait_build(job, within_s=180)["result"] == "SUCCESS"
        console = both.jenkins.console(job)
        assert SHUT in console
        assert "java.net.ConnectException: Connection refused" in console, "its last lines say why"
        assert "Trying again with a new agent" in console
        assert both.provider_of(job) == "there", "a launch that failed is tried at another engine"
    opened = time.monotonic()
    (paused,) = both.paused("here")
    assert (paused["template"], paused["state"]) == ("one", "cooling_down")
    assert [event["for_s"] for event in both.logged("breaker.opened")] == [120.0]
    straight = both.freestyle("straight")
    both.jenkins.queue_build(straight)
    assert both.jenkins.wait_build(straight)["result"] == "SUCCESS"
    assert SHUT not in both.jenkins.console(straight), "while it cools down nothing is tried there"
    explained = both.api(f"explain?label={both.owner}")
    assert explained["provider"] == "there"
    assert "cooling down until" in explained["providers"][0]["reason"]
    both.sidecar.kill()
    both.sidecar.start()
    (still,) = both.paused("here")
    assert still == paused, "the breaker was kept over the restart"
    # half-open: of three builds at once one goes there, and fails; the pause is longer then
    both.sidecar.until(lambda: both.paused("here")[0]["state"] == "probing", "it is half open", within_s=130)
    assert 100 < time.monotonic() - opened < 130
    three = [both.freestyle(f"half{n}") for n in range(3)]
    for job in three:
        both.jenkins.queue_build(job)
    for job in three:
        assert both.jenkins.wait_build(job, within_s=180)["result"] == "SUCCESS"
    probed = [job for job in three if SHUT in both.jenkins.console(job)]
    assert len(probed) == 1, "one launch at a time tries it"
    assert [event["for_s"] for event in both.logged("breaker.opened")] == [120.0, 240.0]
    # an operator says that it works again, and it does
    door.open()
    both.api("providers/here/resume", "POST")
    assert both.paused("here") == []
    well = both.freestyle("well")
    both.jenkins.queue_build(well)
    assert both.jenkins.wait_build(well)["result"] == "SUCCESS"
    assert both.provider_of(well) == "here"
    both.nothing_left()


@pytest.mark.slow
def test_an_engine_that_works_again_is_found_out_by_one_launch_and_used_as_before(both: TwoEngines, door: Door) -> None:
    both.start(here={"agent_url": door.url}, timeouts={"connect": CONNECT}, retries=2)
    for number in range(3):
        job = both.freestyle(f"f{number}")
        both.jenkins.queue_build(job)
        assert both.jenkins.wait_build(job, within_s=180)["result"] == "SUCCESS"
    assert both.paused("here")[0]["state"] == "cooling_down"
    assert both.sidecar.metric("breaker_open", provider="here", template="one") == 1
    door.open()
    both.sidecar.until(lambda: both.paused("here")[0]["state"] == "probing", "it is half open", within_s=130)
    probe = both.freestyle("probe")
    both.jenkins.queue_build(probe)
    assert both.jenkins.wait_build(probe)["result"] == "SUCCESS"
    assert both.provider_of(probe) == "here"
    assert both.paused("here") == []
    assert len(both.logged("breaker.closed")) == 1
    jobs = [both.freestyle(f"g{n}") for n in range(3)]
    for job in jobs:
        both.jenkins.queue_build(job)
    for job in jobs:
        assert both.jenkins.wait_build(job)["result"] == "SUCCESS"
        assert both.provider_of(job) == "here"
    both.nothing_left()


def seen_up(both: TwoEngines, provider: str) -> bool:
    return next(bool(p["up"]) for p in both.api("providers")["providers"] if p["name"] == provider)


@pytest.mark.slow
def test_an_engine_that_stops_and_comes_back_costs_no_build(both: TwoEngines) -> None:
    """It is no failure of a template: nothing cools down, and it is used again as soon as it answers."""
    both.start(here={"max_agents": 1}, there={"max_agents": 2})
    first = both.freestyle("first", "sleep 90")
    both.jenkins.queue_build(first)
    both.sidecar.until(lambda: both.sidecar.metric("agents", state="running") == 1, "it runs here")
    both.second.stop()
    try:
        both.sidecar.until(lambda: not seen_up(both, "there"), "its absence is seen")
        second = both.node_step("second", "sh 'true'")
        both.jenkins.queue_build(second)
        both.sidecar.until(lambda: "provider there is unreachable" in both.jenkins.console(second),
                           "the wait is told", within_s=40)  # fmt: skip
    finally:
        both.second.start()
    assert both.jenkins.wait_build(second, within_s=120)["result"] == "SUCCESS"
    assert both.jenkins.wait_build(first, within_s=200)["result"] == "SUCCESS"
    assert both.paused("there") == []
    both.nothing_left()


@pytest.mark.slow
def test_a_frozen_agent_on_standby_is_given_to_nobody(both: TwoEngines) -> None:
    """To Jenkins it looks online for minutes; asked, it does not answer."""
    both.start(standby=1)
    both.sidecar.until(lambda: both.sidecar.metric("agents", state="idle") == 1, "an agent waits")
    (frozen,) = both.containers("here")
    both.clients["here"].pause(frozen)
    try:
        job = both.freestyle("f", "echo hello")
        both.jenkins.queue_build(job)
        build = both.jenkins.wait_build(job)
        assert build["result"] == "SUCCESS"
        assert build["builtOn"] != frozen
        (refused,) = both.logged("standby.not_given")
        assert "does not answer" in refused["problem"]
        both.sidecar.until(lambda: frozen not in both.jenkins.nodes(), "the frozen one is gone")
    finally:
        if frozen in both.containers("here"):
            both.clients["here"].unpause(frozen)


@pytest.mark.slow
def test_while_the_controller_quiets_down_nothing_is_placed(both: TwoEngines) -> None:
    both.start(standby=0)
    both.jenkins.request("POST", "quietDown")
    try:
        both.sidecar.until(lambda: both.api("controllers")["controllers"][0]["quieting_down"], "it is seen")
        job = both.freestyle("f", "echo hello")
        both.jenkins.queue_build(job)
        time.sleep(8)
        assert both.left()["nodes"] == []
        assert both.containers("here") == both.containers("there") == []
    finally:
        both.jenkins.request("POST", "cancelQuietDown")
    assert both.jenkins.wait_build(job)["result"] == "SUCCESS"
    both.nothing_left()
