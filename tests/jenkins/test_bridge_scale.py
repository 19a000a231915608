"""What the bridge costs the queue: time under its lock with a thousand nodes and ten thousand waiting items.

The figures in docs/bridge.md are this test's; `pytest -m slow tests/jenkins/test_bridge_scale.py -s` prints them.
"""

from __future__ import annotations

import asyncio
import json
from statistics import median
from typing import Any

import pytest
from bridge_rig import Rig

from provisioner.controller.port import Launcher, NodeOrder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NODES, ITEMS, PASSES, ROUNDS = 1000, 10_000, 5, 3

#: Tasks of the moment: the queue holds them like any other, and nothing is left of them.
WAITING = """
import hudson.model.*
import hudson.model.queue.*
class ScaleTask extends AbstractQueueTask implements Queue.TransientTask {
    int n
    Label getAssignedLabel() { Label.get('elsewhere-' + n.mod(50)) }
    Node getLastBuiltOn() { null }
    boolean isBuildBlocked() { false }
    String getWhyBlocked() { null }
    String getName() { 'scale ' + n }
    String getFullDisplayName() { name }
    String getDisplayName() { name }
    String getUrl() { 'scale/' + n + '/' }
    long getEstimatedDuration() { -1L }
    Queue.Executable createExecutable() { null }
    void checkAbortPermission() {}
    boolean hasAbortPermission() { true }
    hudson.model.queue.CauseOfBlockage getCauseOfBlockage() { null }
    ResourceList getResourceList() { new ResourceList() }
}
def queue = Queue.instance
Queue.withLock({ (0..<%d).each { queue.schedule2(new ScaleTask(n: it), 0) } } as Runnable)
queue.maintain()
print queue.buildableItems.size()
"""
#: Milliseconds of passes over the whole queue, all of it under its lock; with `anew` the first after a change of nodes,
#: which looks up anew what each label matches.
MEASURE = """
def controller = hudson.model.Hudson.instance
def queue = hudson.model.Queue.instance
def trim = hudson.model.Hudson.superclass.getDeclaredMethod('trimLabels')
trim.accessible = true
def took = (1..%d).collect {
  if (%s) trim.invoke(controller)
  def began = System.nanoTime()
  queue.maintain()
  (System.nanoTime() - began) / 1e6
}
print groovy.json.JsonOutput.toJson(took)
"""
#: What the bridge has put into Jenkins' lists, taken out and put back as it was, with all that it knows of its nodes.
LISTS = """
def lists = [hudson.model.queue.QueueListener, hudson.model.ExecutorListener, hudson.slaves.ComputerListener,
  jenkins.model.NodeListener, hudson.model.listeners.RunListener, hudson.model.LabelFinder,
  hudson.model.queue.QueueTaskDispatcher].collect { hudson.ExtensionList.lookup(it) }
"""
TAKE_OUT = (
    LISTS
    + """
def held = lists.collect { list -> [list, list.findAll { it.class.name.startsWith('ProvisionerBridge') }] }
held.each { list, ours -> ours.each { list.remove(it) } }
System.properties.put('bridge.held', held)
print held.sum { it[1].size() }
"""
)
PUT_BACK = """
def held = System.properties.remove('bridge.held')
held.each { list, ours -> ours.each { list.add(it) } }
print held.sum { it[1].size() }
"""
CLEAR = "hudson.model.Queue.instance.clear(); jenkins.model.Jenkins.get().setNodes([])"


def pass_ms(rig: Rig, *, anew: bool) -> float:
    """Median milliseconds of a pass."""
    truth = str(anew).lower()
    rig.jenkins.script(MEASURE % (2, truth), timeout_s=300)
    took: list[Any] = json.loads(rig.jenkins.script(MEASURE % (PASSES, truth), timeout_s=300))
    return median(float(ms) for ms in took)


async def test_a_pass_over_the_queue_costs_no_more_with_the_bridge(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        orders = [
            NodeOrder(
                name=f"scale-{number}",
                owner=rig.owner,
                labels=("maven", f"own-{number % 50}"),
                remote_fs="/x",
                request=None,
                launcher=Launcher.WEBSOCKET,
            )
            for number in range(NODES)
        ]
        await asyncio.gather(*(rig.client.register(order) for order in orders))
        assert int(rig.jenkins.script(WAITING % ITEMS, timeout_s=300)) == ITEMS
        figures: dict[str, list[float]] = {"with": [], "without": [], "with, anew": [], "without, anew": []}
        for _ in range(ROUNDS):
            for way, script in (("with", None), ("without", TAKE_OUT)):
                if script is not None:
                    assert rig.jenkins.script(script) == "7"
                figures[way].append(pass_ms(rig, anew=False))
                figures[f"{way}, anew"].append(pass_ms(rig, anew=True))
            assert rig.jenkins.script(PUT_BACK) == "7"
        told = {name: round(median(values), 1) for name, values in figures.items()}
        with capsys.disabled():
            print(f"\n{NODES} nodes x {ITEMS} items, ms under the queue's lock for a pass: {told} {figures}")
        assert told["with"] <= 1.3 * told["without"] + 20
        assert told["with, anew"] <= 1.3 * told["without, anew"] + 100
    finally:
        rig.jenkins.script(CLEAR, timeout_s=300)
