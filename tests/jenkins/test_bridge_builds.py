"""One build, one agent: what the queue gives to a node of ours, and what the consoles show."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from controller import freestyle_xml, pipeline_xml

from provisioner.controller.port import BuildFinished, BuildStarted, ItemLeft, Launcher, NodeOffline, NodeOnline
from provisioner.model.queue import ItemKind, QueueItem
from tests.jenkins.bridge_rig import Rig, named, shell_job

DECLARATIVE = """
pipeline {
  agent { label 'maven' }
  stages { stage('one') { steps { sh 'echo built on $NODE_NAME' } } }
}
"""


def marked(console: str) -> list[str]:
    return [line for line in console.splitlines() if line.startswith("[provisioner] ")]


@pytest.mark.parametrize("launcher", [Launcher.WEBSOCKET, Launcher.TCP])
async def test_a_freestyle_build_gets_its_node_and_shows_the_launch_at_the_top(rig: Rig, launcher: Launcher) -> None:
    job = f"freestyle-{rig.owner}"
    rig.jenkins.create_job(
        job,
        freestyle_xml("echo built on $NODE_NAME", label="maven && linux", parameters={"WANTED": "w", "OTHER": "o"}),
    )
    queue_id = rig.jenkins.queue_build(job, {"WANTED": "yes", "OTHER": "no"})
    item = await rig.item(job)
    assert (item.key.queue_id, item.key.task, item.kind) == (queue_id, f"job/{job}/", ItemKind.FREESTYLE)
    assert item.label == "maven&&linux"
    assert item.parameters == {"WANTED": "yes"}
    assert item.causes == ("Started by user admin",)

    order = rig.order(item, labels=("maven", "linux"), lines=("template maven on here",), launcher=launcher)
    await rig.launch(order)
    await rig.until(NodeOnline, lambda o: o.name == order.name)
    started = await rig.until(BuildStarted, lambda o: o.name == order.name)
    assert (started.queue_id, started.build_url) == (queue_id, f"job/{job}/1/")
    left = await rig.until(ItemLeft, lambda o: o.queue_id == queue_id)
    assert (left.cancelled, left.node) == (False, order.name)
    finished = await rig.until(BuildFinished, lambda o: o.name == order.name)
    assert (finished.failed, finished.lost) == (False, False)
    assert await rig.client.remove(order.name, ["removed after 1 s"])
    assert not await rig.client.remove(order.name)
    assert order.name not in rig.jenkins.nodes()

    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    console = rig.jenkins.console(job)
    assert f"built on {order.name}" in console
    assert console.index("[provisioner] template maven on here") < console.index("Building remotely on")
    assert console.index(f"[provisioner] Agent {order.name} connected") < console.index("Building remotely on")
    done = f"[provisioner] Agent {order.name} is done: connected in "
    assert console.count(done) == 1
    assert console.index(f"built on {order.name}") < console.index(done) < console.index("Finished: SUCCESS")
    assert marked(console)[-1] == "[provisioner] removed after 1 s"


#: The listener of a plugin that takes its time with every agent that has come online.
SLOW_TO_GREET = """
class SlowToGreetInTest extends hudson.slaves.ComputerListener {
    volatile boolean over
    void onOnline(hudson.model.Computer computer, hudson.model.TaskListener listener) {
        for (int i = 0; i < 600 && !over; i++) Thread.sleep(100)
    }
}
hudson.ExtensionList.lookup(hudson.slaves.ComputerListener).add(new SlowToGreetInTest())
"""
GREETED = """
def all = hudson.ExtensionList.lookup(hudson.slaves.ComputerListener)
all.findAll { it.class.name == 'SlowToGreetInTest' }.each { it.over = true; all.remove(it) }
"""


async def test_a_build_does_not_wait_for_what_plugins_do_with_an_agent_that_is_online(rig: Rig) -> None:
    """How soon it begins is a benchmark's to say: Jenkins itself looks at its queue every 5 s."""
    rig.jenkins.script(SLOW_TO_GREET)
    try:
        item = await rig.queued(f"early-{rig.owner}", shell_job("freestyle", "echo hello"))
        await rig.begin(rig.order(item))
        # the listener still sleeps, and nothing else happens in the queue
        assert (await rig.build_ends(f"early-{rig.owner}"))["result"] == "SUCCESS"
    finally:
        rig.jenkins.script(GREETED)


async def test_a_waiting_node_step_shows_the_launch_live(rig: Rig) -> None:
    job = f"pipeline-{rig.owner}"
    rig.jenkins.create_job(
        job,
        pipeline_xml(
            "node('maven') { sh 'echo built on $NODE_NAME' }; echo 'after the block'", parameters={"WANTED": "w"}
        ),
    )
    rig.jenkins.queue_build(job, {"WANTED": "yes"})
    item = await rig.item(job)
    assert (item.kind, item.key.task, item.build_url) == (ItemKind.PIPELINE, f"job/{job}/1/", f"job/{job}/1/")
    assert (item.label, item.parameters, item.causes) == ("maven", {"WANTED": "yes"}, ("Started by user admin",))

    await rig.client.log(None, item, ["pulling 10 %"])
    await rig.console_shows(job, "[provisioner] pulling 10 %")
    assert rig.jenkins.begun(job, 1)["building"]

    order = rig.order(item, lines=("registering",))
    await rig.launch(order)
    finished = await rig.until(BuildFinished, lambda o: o.name == order.name)
    assert finished.queue_id == item.key.queue_id
    await rig.client.remove(order.name)
    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    console = rig.jenkins.console(job)
    assert f"built on {order.name}" in console
    assert console.index("[provisioner] registering") < console.index("Running on")
    done = f"[provisioner] Agent {order.name} is done: connected in "
    assert console.count(done) == 1
    assert console.index(f"built on {order.name}") < console.index(done) < console.index("Finished: SUCCESS")
    assert "Agent was removed" not in console  # although the node goes the moment that the block ends


async def test_a_node_takes_only_its_own_item_and_never_a_second(rig: Rig) -> None:
    first_job, second_job = f"own-{rig.owner}", f"stranger-{rig.owner}"
    for job in (first_job, second_job):
        rig.jenkins.create_job(job, freestyle_xml("true", label="maven"))
    rig.jenkins.queue_build(second_job)  # first in the queue, and the node's labels would do
    stranger = await rig.item(second_job)
    rig.jenkins.queue_build(first_job)
    own = await rig.item(first_job)
    order = rig.order(own)
    await rig.launch(order)
    await rig.until(BuildFinished, lambda o: o.name == order.name)
    rig.jenkins.queue_build(first_job)
    again = await rig.item(first_job, but=[own])
    rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
    waiting = {item["id"] for item in rig.jenkins.queue_items()}
    assert waiting == {stranger.key.queue_id, again.key.queue_id}
    assert (await rig.build_ends(first_job))["builtOn"] == order.name
    assert rig.jenkins.build(second_job, 1) is None


async def test_an_item_with_the_queue_id_of_another_is_not_taken(rig: Rig) -> None:
    job = f"again-{rig.owner}"
    item = await rig.queued(job, freestyle_xml("true", label="maven"))
    # ids come again after the controller was killed; the time of entry does not
    order = rig.order(replace(item, key=replace(item.key, since_ms=item.key.since_ms - 1)))
    await rig.launch(order)
    await rig.until(NodeOnline, lambda o: o.name == order.name)
    rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
    assert [i["id"] for i in rig.jenkins.queue_items()] == [item.key.queue_id]
    await rig.client.give(order.name, item)
    await rig.until(BuildFinished, lambda o: o.name == order.name)


async def test_a_standby_node_takes_nothing_until_it_is_given_an_item(rig: Rig) -> None:
    job = f"standby-{rig.owner}"
    rig.jenkins.create_job(job, freestyle_xml("true", label="maven"))
    order = rig.order(None, lines=("made in advance",))
    await rig.launch(order)
    await rig.until(NodeOnline, lambda o: o.name == order.name)
    rig.jenkins.queue_build(job)
    item = await rig.item(job)
    rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
    assert [i["id"] for i in rig.jenkins.queue_items()] == [item.key.queue_id]
    await rig.client.give(order.name, item)
    await rig.until(BuildFinished, lambda o: o.name == order.name)
    assert (await rig.build_ends(job))["builtOn"] == order.name
    assert "[provisioner] made in advance" in rig.jenkins.console(job)


async def test_parallel_node_steps_of_one_run_each_get_their_own(rig: Rig) -> None:
    job = f"parallel-{rig.owner}"
    rig.jenkins.create_job(
        job,
        pipeline_xml(
            "def branches = [:]\n"
            "for (n in ['a', 'b', 'c']) { branches[n] = { node('maven') { sh 'echo on $NODE_NAME' } } }\n"
            "parallel branches"
        ),
    )
    rig.jenkins.queue_build(job)
    items: list[QueueItem] = []
    for _ in range(3):
        items.append(await rig.item(job, but=items))
    orders = [rig.order(item, lines=(f"for item {item.key.queue_id}",)) for item in items]
    for order in orders:
        await rig.launch(order)
    for order, item in zip(orders, items, strict=True):
        finished = await rig.until(BuildFinished, named(order.name))
        assert finished.queue_id == item.key.queue_id
        await rig.client.remove(order.name)
    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    console = rig.jenkins.console(job)
    for order, item in zip(orders, items, strict=True):
        assert f"on {order.name}" in console
        assert f"[provisioner] for item {item.key.queue_id}" in console


async def test_a_declarative_pipeline_runs_on_its_node(rig: Rig) -> None:
    job = f"declarative-{rig.owner}"
    order = rig.order(await rig.queued(job, pipeline_xml(DECLARATIVE)), lines=("launching",))
    await rig.launch(order)
    await rig.until(BuildFinished, lambda o: o.name == order.name)
    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    console = rig.jenkins.console(job)
    assert "[provisioner] launching" in console
    assert f"built on {order.name}" in console


async def test_a_barred_node_takes_not_even_its_own(rig: Rig) -> None:
    job = f"barred-{rig.owner}"
    item = await rig.queued(job, freestyle_xml("true", label="maven"))
    order = rig.order(item)
    registration = await rig.client.register(order)
    await rig.client.bar(order.name)
    rig.agents.start(order.name, registration.secret)
    await rig.until(NodeOnline, lambda o: o.name == order.name)
    rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
    assert [i["id"] for i in rig.jenkins.queue_items()] == [item.key.queue_id]


async def test_labels_are_never_stored(rig: Rig) -> None:
    order = rig.order(None, labels=("maven", "image=a/b:1"))
    await rig.client.register(order)
    config = (rig.jenkins.home / "nodes" / order.name / "config.xml").read_text()
    assert "<label></label>" in config
    assert "image=" not in config
    assert "rovisionerBridge" not in config
    shown = rig.jenkins.get_json(f"computer/{order.name}/api/json?tree=assignedLabels[name],description")
    assert {label["name"] for label in shown["assignedLabels"]} == {"maven", "image=a/b:1", order.name}
    assert shown["description"] == f"jenkins-provisioner.owner={rig.owner} jenkins-provisioner.agent={order.name}"


async def test_a_cancelled_item_is_told(rig: Rig) -> None:
    job = f"cancelled-{rig.owner}"
    item = await rig.queued(job, freestyle_xml("true", label="maven"))
    rig.jenkins.cancel(item.key.queue_id)
    left = await rig.until(ItemLeft, lambda o: o.queue_id == item.key.queue_id)
    assert (left.cancelled, left.node, left.since_ms) == (True, None, item.key.since_ms)


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
async def test_removing_a_dead_agents_node_ends_its_build_at_once(rig: Rig, kind: str) -> None:
    job = f"dead-{kind}-{rig.owner}"
    order = rig.order(await rig.queued(job, shell_job(kind, "sleep 120")))
    agent = await rig.begin(order)
    await rig.console_shows(job, "sleep 120")
    agent.kill()
    await rig.until(NodeOffline, lambda o: o.name == order.name)
    if kind == "freestyle":
        assert (await rig.until(BuildFinished, lambda o: o.name == order.name)).lost
    await rig.client.remove(order.name, ["the container ended with exit code 137: out of memory"])
    build: dict[str, Any] = await asyncio.to_thread(rig.jenkins.wait_build, job, 1, within_s=30)
    assert build["result"] in {"FAILURE", "ABORTED"}
    assert "[provisioner] the container ended with exit code 137: out of memory" in rig.jenkins.console(job)
