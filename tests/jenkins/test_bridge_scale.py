"""What the bridge costs the queue: time under its lock with a thousand nodes and ten thousand waiting items.

The figures in docs/bridge.md are this test's; `pytest -m slow tests/jenkins/test_bridge_scale.py -s` prints them.
"""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import pytest
from bridge_rig import Rig

from provisioner.controller.port import Launcher, NodeOrder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NODES, ITEMS, PASSES = 1000, 10_000, 5

#: Tasks of the moment: the queue holds them like any other, and nothing is left of them.
WAITING = """
import hudson.model.*
import hudson.model.queue.*
class ScaleTask extends AbstractQueueTask implements Queue.TransientTask {
    int n
    Label getAssignedLabel() { Label.get('elsewhere-' + (n % 50)) }
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
MEASURE = """
def queue = hudson.model.Queue.instance
def took = (1..%d).collect { def began = System.nanoTime(); queue.maintain(); (System.nanoTime() - began) / 1e6 }
print groovy.json.JsonOutput.toJson(took)
"""
CLEAR = "hudson.model.Queue.instance.clear(); jenkins.model.Jenkins.get().setNodes([])"


def pass_ms(rig: Rig) -> float:
    """Median milliseconds of a pass over the whole queue, all of it under the lock."""
    rig.jenkins.script(MEASURE % 2, timeout_s=300)
    took: list[Any] = json.loads(rig.jenkins.script(MEASURE % PASSES, timeout_s=300))
    return median(float(ms) for ms in took)


async def test_a_pass_over_the_queue_costs_no_more_with_the_bridge(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        for number in range(NODES):
            await rig.client.register(
                NodeOrder(
                    name=f"scale-{number}",
                    owner=rig.owner,
                    labels=("maven", f"own-{number % 50}"),
                    remote_fs="/x",
                    request=None,
                    launcher=Launcher.WEBSOCKET,
                )
            )
        assert int(rig.jenkins.script(WAITING % ITEMS, timeout_s=300)) == ITEMS
        figures: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(3):
            figures["with"].append(pass_ms(rig))
            await rig.client.uninstall()
            figures["without"].append(pass_ms(rig))
            # the nodes' labels are given again by adopting them; here only that the bridge is in counts
            await rig.client.install()
        told = {name: round(median(values)) for name, values in figures.items()}
        with capsys.disabled():
            print(f"\n{NODES} nodes x {ITEMS} items, ms under the queue's lock for a pass: {told} {figures}")
        assert told["with"] <= 1.3 * told["without"] + 20
    finally:
        rig.jenkins.script(CLEAR, timeout_s=300)
