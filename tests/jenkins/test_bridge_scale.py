"""What the bridge costs the queue: time under its lock with a thousand nodes and ten thousand waiting items.

The figures in docs/bridge.md are this test's; `SLOW=1 pytest -s tests/jenkins/test_bridge_scale.py` prints them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from controller import RealController

from provisioner.controller.port import Launcher, NodeOrder
from tests.jenkins.bridge_rig import Agents, Rig
from tests.standin_process import real_controller

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NODES = 1000
#: Waiting items and rounds: few of the large one, of which a pass alone takes long.
SIZES = ((1_000, 4), (10_000, 2))

#: Room for what Jenkins keeps for each pair: the reason why the node cannot take the item.
OPTIONS = ("-Xmx5g", "-Xms4g", "-Xmn2g")

#: Tasks of the moment: the queue holds them like any other, and nothing is left of them. The label is asked for as a
#: freestyle job's is.
WAITING = """
import groovy.transform.CompileStatic
import hudson.model.*
import hudson.model.queue.*
@CompileStatic
class ScaleTask extends AbstractQueueTask implements Queue.TransientTask {
    final int n
    final String wanted
    ScaleTask(int n, String wanted) { this.n = n; this.wanted = wanted }
    Label getAssignedLabel() { return jenkins.model.Jenkins.get().getLabel(wanted) }
    Node getLastBuiltOn() { return null }
    boolean isBuildBlocked() { return false }
    String getWhyBlocked() { return null }
    String getName() { return 'scale ' + n }
    String getFullDisplayName() { return name }
    String getDisplayName() { return name }
    String getUrl() { return 'scale/' + n + '/' }
    long getEstimatedDuration() { return -1L }
    Queue.Executable createExecutable() { return null }
    void checkAbortPermission() {}
    boolean hasAbortPermission() { return true }
    CauseOfBlockage getCauseOfBlockage() { return null }
    ResourceList getResourceList() { return new ResourceList() }
}
def queue = Queue.instance
Queue.withLock({
    (%d..<%d).each { queue.schedule2(new ScaleTask(it, 'elsewhere-' + it.mod(50)), 0) }
    queue.maintain()
} as Runnable)
print queue.buildableItems.size()
"""
#: Everything in one hold of the queue's lock, so that nothing else is in the figures: rounds of a pass with and one
#: without what the bridge has in Jenkins' lists, in turn. Before each pass what the labels match is looked up anew, as
#: it is after every change of a node; that is timed by itself. The processor time of the thread is what counts: on a
#: machine with more to do than this the time that passes says little.
MEASURE = """
import hudson.ExtensionList
import hudson.model.*
import jenkins.model.Jenkins
def controller = Jenkins.get()
def lists = [hudson.model.queue.QueueListener, ExecutorListener, hudson.slaves.ComputerListener,
  jenkins.model.NodeListener, hudson.model.listeners.RunListener, LabelFinder,
  hudson.model.queue.QueueTaskDispatcher].collect { ExtensionList.lookup(it) }
def ours = lists.collect { list -> list.findAll { it.class.name.startsWith('ProvisionerBridge') } }
assert ours.every { it.size() == 1 }
def trim = Jenkins.getDeclaredMethod('trimLabels')
trim.accessible = true
def cpu = java.lang.management.ManagementFactory.threadMXBean
def timed = { Closure work ->
  def (began, used) = [System.nanoTime(), cpu.currentThreadCpuTime]
  work()
  [cpu_ms: (cpu.currentThreadCpuTime - used) / 1e6d, ms: (System.nanoTime() - began) / 1e6d]
}
def took = [pass: [with: [], without: []], labels: [with: [], without: []]]
def turn = { String way ->
  trim.invoke(controller)
  took.labels[way] << timed { 50.times { controller.getLabel('elsewhere-' + it).nodes } }
  took.pass[way] << timed { Queue.instance.maintain() }
}
def without = {
  lists.eachWithIndex { list, at -> ours[at].each { list.remove(it) } }
  try { turn('without') } finally { lists.eachWithIndex { list, at -> ours[at].each { list.add(it) } } }
}
Queue.withLock({
  %d.times { round ->
    if (round.mod(2) == 0) { turn('with'); without() } else { without(); turn('with') }
  }
  trim.invoke(controller)
} as Runnable)
took.waiting = Queue.instance.buildableItems.size()
print groovy.json.JsonOutput.toJson(took)
"""


@pytest.fixture
def jenkins(tmp_path: Path) -> Iterator[RealController]:
    """A controller with more memory than the others."""
    with real_controller(tmp_path / "home", java_options=OPTIONS) as controller:
        yield controller


async def test_a_pass_over_the_queue_costs_no_more_with_the_bridge(
    jenkins: RealController, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig(jenkins, Agents(jenkins, tmp_path / "agents"))
    try:
        await rig.open()
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
        there = 0
        for items, rounds in SIZES:
            await asyncio.to_thread(jenkins.script, WAITING % (there, items), timeout_s=900)
            there = items
            took = json.loads(await asyncio.to_thread(jenkins.script, MEASURE % rounds, timeout_s=1200))
            assert took["waiting"] == items
            with capsys.disabled():
                print(f"\n{NODES} nodes x {items} items under the queue's lock: {took}")
            for what, most in (("pass", 1.3), ("labels", 4.0)):
                with_it, without = (median(one["cpu_ms"] for one in took[what][way]) for way in ("with", "without"))
                with capsys.disabled():
                    print(f"{what}: {with_it:.0f} ms with the bridge, {without:.0f} ms without")
                assert with_it <= most * without + 20
        began = time.monotonic()
        snapshot = (await rig.client.hello()).snapshot
        # tasks that nobody may read, as these, are told to nobody
        assert (len(snapshot.items), len(snapshot.nodes)) == (0, NODES)
        with capsys.disabled():
            print(f"a snapshot of all that, outside the lock: {time.monotonic() - began:.1f} s")
    finally:
        await rig.close()
