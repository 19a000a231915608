"""A failed launch is the build's failure: records, consoles, and what stays in saved state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from controller import freestyle_xml, pipeline_xml

from provisioner.controller.port import FailOutcome, ItemLeft, NodeOnline
from provisioner.model.queue import ItemKind, QueueItem
from tests.jenkins.bridge_rig import Rig

MATRIX = """
<matrix-project><properties/><canRoam>true</canRoam><axes>
<hudson.matrix.LabelAxis><name>where</name><values><string>maven</string></values></hudson.matrix.LabelAxis>
</axes><builders/><publishers/><buildWrappers/>
<executionStrategy class="hudson.matrix.DefaultMatrixExecutionStrategyImpl">
<runSequentially>false</runSequentially></executionStrategy></matrix-project>
"""

#: In the place of `canRoam`: the parent of a matrix wants the label too.
TIED = "<assignedNode>maven</assignedNode><canRoam>false</canRoam>"

#: A task of the moment that makes no build record; who waits for it is told how it ended.
NO_JOB = """
import hudson.model.*
import hudson.model.queue.*
class NoJob extends AbstractQueueTask implements Queue.TransientTask, hudson.security.AccessControlled {
    hudson.security.ACL getACL() { jenkins.model.Jenkins.get().ACL }
    Label getAssignedLabel() { Label.get('maven') }
    Node getLastBuiltOn() { null }
    boolean isBuildBlocked() { false }
    String getWhyBlocked() { null }
    String getName() { 'errand-OWNER' }
    String getFullDisplayName() { name }
    String getDisplayName() { name }
    String getUrl() { 'errand/' }
    long getEstimatedDuration() { -1L }
    Queue.Executable createExecutable() { null }
    void checkAbortPermission() {}
    boolean hasAbortPermission() { true }
    CauseOfBlockage getCauseOfBlockage() { null }
    ResourceList getResourceList() { new ResourceList() }
}
def item = Queue.instance.schedule2(new NoJob(), 0).item
Thread.start {
    try { item.future.get(); System.setProperty('errand.OWNER', 'done') }
    catch (Throwable problem) { System.setProperty('errand.OWNER', String.valueOf(problem)) }
}
print item.id
"""
#: A kind of job of its own, which only a plugin would bring: it makes builds, and is no AbstractProject.
OTHER_JOB = """
import hudson.model.*
import hudson.model.queue.*
class OtherRun extends Run<OtherJob, OtherRun> implements Queue.Executable {
    OtherRun(OtherJob job) { super(job) }
    OtherJob getParent() { super.getParent() }
    void run() {}
    long getEstimatedDuration() { -1L }
}
class OtherJob extends Job<OtherJob, OtherRun> implements Queue.Task, TopLevelItem {
    TreeMap<Integer, OtherRun> made = new TreeMap<Integer, OtherRun>(Collections.reverseOrder())
    OtherJob(ItemGroup parent, String name) { super(parent, name) }
    TopLevelItemDescriptor getDescriptor() { null }
    boolean isBuildable() { true }
    protected SortedMap<Integer, OtherRun> _getRuns() { made }
    protected void removeRun(OtherRun run) { made.remove(run.number) }
    void save() {}
    Label getAssignedLabel() { Label.get('maven') }
    Node getLastBuiltOn() { null }
    boolean isBuildBlocked() { false }
    String getWhyBlocked() { null }
    boolean isConcurrentBuild() { false }
    SubTask getOwnTask() { this }
    Queue.Task getOwnerTask() { this }
    Collection<? extends SubTask> getSubTasks() { [this] }
    Object getSameNodeConstraint() { null }
    long getEstimatedDuration() { -1L }
    void checkAbortPermission() {}
    boolean hasAbortPermission() { true }
    CauseOfBlockage getCauseOfBlockage() { null }
    ResourceList getResourceList() { new ResourceList() }
    OtherRun createExecutable() {
        def run = new OtherRun(this)
        run.rootDir.mkdirs()
        made.put(run.number, run)
        return run
    }
}
def job = new OtherJob(jenkins.model.Jenkins.get(), 'NAME')
job.rootDir.mkdirs()
System.properties.put('other.NAME', job)
print Queue.instance.schedule2(job, 0, new CauseAction(new Cause.RemoteCause('afar', 'because'))).item.id
"""


async def fail(rig: Rig, item: QueueItem, *, retryable: bool = False) -> tuple[FailOutcome, str | None]:
    return await rig.client.fail(
        item,
        reason="image_not_found",
        message="The image maven:none was not found.",
        lines=["pulling maven:none", "manifest unknown"],
        retryable=retryable,
    )


def no_class_of_ours_is_saved(rig: Rig, job: str) -> None:
    for folder in (rig.jenkins.home / "jobs" / job / "builds", rig.jenkins.home / "nodes"):
        for file in folder.rglob("*"):
            if file.is_file() and file.name not in {"log", "log-index"}:
                # as a line of a stack trace its name does no harm; as a class it could not be read back
                saved = file.read_bytes()
                assert b"<ProvisionerBridge" not in saved, file
                assert b'class="ProvisionerBridge' not in saved, file


async def test_a_freestyle_build_gets_a_record_that_says_why(rig: Rig) -> None:
    job = f"failed-{rig.owner}"
    rig.jenkins.create_job(job, freestyle_xml("true", label="maven", parameters={"WANTED": "default"}))
    queue_id = rig.jenkins.queue_build(job, {"WANTED": "this"})
    item = await rig.item(job)
    await rig.client.log(None, item, ["queued for 3 s"])
    assert await fail(rig, item) == (FailOutcome.NOT_BUILT, f"job/{job}/1/")
    assert queue_id not in [left["id"] for left in rig.jenkins.queue_items()]  # what REST shows is a copy
    assert await fail(rig, item) == (FailOutcome.GONE, None)

    build = await rig.build_ends(job)
    assert (build["result"], build["queueId"]) == ("NOT_BUILT", queue_id)
    actions = {action.get("_class"): action for action in build["actions"]}
    assert actions["hudson.model.ParametersAction"]["parameters"][0]["value"] == "this"
    assert actions["hudson.model.CauseAction"]["causes"][0]["userId"] == rig.jenkins.user
    assert [line for line in rig.jenkins.console(job).splitlines() if line.startswith("[provisioner] ")] == [
        "[provisioner] queued for 3 s",
        "[provisioner] pulling maven:none",
        "[provisioner] manifest unknown",
        "[provisioner] The image maven:none was not found. (image_not_found)",
    ]
    left = rig.jenkins.get_json(f"queue/item/{queue_id}/api/json")
    assert (left["cancelled"], left["executable"]["number"]) == (False, 1)
    no_class_of_ours_is_saved(rig, job)


async def test_the_next_build_of_a_failed_job_is_numbered_on(rig: Rig) -> None:
    job = f"numbers-{rig.owner}"
    rig.jenkins.create_job(job, freestyle_xml("true", label="maven"))
    seen: list[QueueItem] = []
    for number in (1, 2, 3):
        rig.jenkins.queue_build(job)
        seen.append(await rig.item(job, but=seen))
        assert await fail(rig, seen[-1]) == (FailOutcome.NOT_BUILT, f"job/{job}/{number}/")
        assert (await rig.build_ends(job, number))["result"] == "NOT_BUILT"


async def test_a_node_step_fails_with_the_message(rig: Rig) -> None:
    job = f"step-{rig.owner}"
    item = await rig.queued(
        job,
        pipeline_xml(
            "try { node('maven') { echo 'never' } }\n"
            'catch (problem) { echo "caught: ${problem.message}"; throw problem }'
        ),
    )
    assert await fail(rig, item) == (FailOutcome.STEP_FAILED, f"job/{job}/1/")
    assert (await rig.build_ends(job))["result"] == "FAILURE"
    console = rig.jenkins.console(job)
    assert "caught: The image maven:none was not found." in console
    assert console.index("[provisioner] manifest unknown") < console.index("caught:")
    assert (await rig.until(ItemLeft, lambda o: o.queue_id == item.key.queue_id)).cancelled
    no_class_of_ours_is_saved(rig, job)


async def test_a_failure_that_a_pipeline_holds_survives_a_restart(rig: Rig) -> None:
    job = f"held-{rig.owner}"
    item = await rig.queued(
        job,
        pipeline_xml(
            "def held\ntry { node('maven') { echo 'never' } } catch (problem) { held = problem }\n"
            "input id: 'Go', message: 'holding'; echo \"held: ${held.message}\"; throw held"
        ),
    )
    await fail(rig, item, retryable=True)
    await rig.console_shows(job, "Proceed or Abort")
    await rig.close()
    await asyncio.to_thread(rig.jenkins.restart)
    async with asyncio.timeout(90):  # until it is there again
        go = f"job/{job}/1/input/Go/proceedEmpty"
        while rig.jenkins.request("POST", go).status not in (200, 302):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert (await rig.build_ends(job))["result"] == "FAILURE"
    console = rig.jenkins.console(job)
    assert "held: The image maven:none was not found." in console
    assert "Resuming build" in console


@pytest.mark.parametrize("retryable", [True, False])
async def test_only_a_retryable_failure_satisfies_retry_on_agent(rig: Rig, retryable: bool) -> None:
    job = f"retry-{retryable}-{rig.owner}".lower()
    item = await rig.queued(
        job, pipeline_xml("retry(count: 2, conditions: [agent()]) { node('maven') { echo 'never' } }")
    )
    await fail(rig, item, retryable=retryable)
    if retryable:
        again = await rig.item(job, but=[item])
        assert await fail(rig, again) == (FailOutcome.STEP_FAILED, f"job/{job}/1/")
    assert (await rig.build_ends(job))["result"] == "FAILURE"
    assert ("Retrying" in rig.jenkins.console(job)) is retryable


async def test_an_upstream_build_step_receives_the_failed_build(rig: Rig) -> None:
    below, above = f"below-{rig.owner}", f"above-{rig.owner}"
    rig.jenkins.create_job(below, freestyle_xml("true", label="maven"))
    rig.jenkins.create_job(
        above,
        pipeline_xml(
            f"def b = build(job: '{below}', wait: true, propagate: false, quietPeriod: 0)\n"
            'echo "got ${b.number} ${b.result}"'
        ),
    )
    rig.jenkins.queue_build(above)
    assert (await fail(rig, await rig.item(below)))[0] is FailOutcome.NOT_BUILT
    assert (await rig.build_ends(above))["result"] == "SUCCESS"
    assert "got 1 NOT_BUILT" in rig.jenkins.console(above)


async def test_a_matrix_cell_gets_its_record_in_the_matrix_build(rig: Rig) -> None:
    job = f"matrix-{rig.owner}"
    item = await rig.queued(job, MATRIX)
    assert item.key.task == f"job/{job}/where=maven/"
    assert (await fail(rig, item)) == (FailOutcome.NOT_BUILT, f"job/{job}/where=maven/1/")
    build = await rig.build_ends(job)
    assert build["result"] == "NOT_BUILT"
    console = rig.jenkins.request("GET", f"job/{job}/where=maven/1/consoleText").text
    assert "[provisioner] The image maven:none was not found. (image_not_found)" in console


async def test_a_matrix_cell_runs_on_its_node(rig: Rig) -> None:
    job = f"matrixrun-{rig.owner}"
    order = rig.order(await rig.queued(job, MATRIX), lines=("for the cell",))
    await rig.launch(order)
    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    console = rig.jenkins.request("GET", f"job/{job}/where=maven/1/consoleText").text
    assert "[provisioner] for the cell" in console


async def test_the_parent_of_a_matrix_keeps_off_an_agent_that_is_for_another_build(rig: Rig) -> None:
    """Jenkins asks nobody which node a light-weight task may take, nor whether that is busy."""
    agent = rig.order(None)
    await rig.launch(agent)
    await rig.until(NodeOnline, lambda o: o.name == agent.name)
    job = f"matrixaside-{rig.owner}"
    rig.jenkins.create_job(job, MATRIX.replace("<canRoam>true</canRoam>", TIED))
    queue_id = rig.jenkins.queue_build(job)
    rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
    waits = rig.jenkins.get_json(f"queue/item/{queue_id}/api/json?tree=why")
    assert waits["why"].startswith("A light-weight task would land on the agent of another build")
    assert rig.jenkins.build(job, 1) is None
    await rig.client.remove(agent.name)
    item = await rig.item(job)
    assert item.key.queue_id == queue_id
    assert (await fail(rig, item))[0] is FailOutcome.NOT_BUILT


async def test_the_parent_of_a_matrix_gets_its_record(rig: Rig) -> None:
    job = f"matrixparent-{rig.owner}"
    rig.jenkins.create_job(job, MATRIX.replace("<canRoam>true</canRoam>", TIED))
    queue_id = rig.jenkins.queue_build(job)
    item = await rig.item(job)
    assert item.key.task == f"job/{job}/"
    assert (await fail(rig, item)) == (FailOutcome.NOT_BUILT, f"job/{job}/1/")
    build = await rig.build_ends(job)
    assert (build["result"], build["queueId"]) == ("NOT_BUILT", queue_id)
    assert "[provisioner] The image maven:none was not found. (image_not_found)" in rig.jenkins.console(job)
    no_class_of_ours_is_saved(rig, job)


async def test_a_job_of_another_kind_gets_its_record(rig: Rig) -> None:
    job = f"otherkind-{rig.owner}"
    queue_id = int(rig.jenkins.script(OTHER_JOB.replace("NAME", job)))
    item = await rig.item(job)
    assert (item.key.queue_id, item.kind, item.causes[0][:22]) == (queue_id, ItemKind.OTHER, "Started by remote host")
    assert (await fail(rig, item)) == (FailOutcome.NOT_BUILT, f"job/{job}/1/")
    told = rig.jenkins.script(
        f"def run = System.properties.get('other.{job}')._getRuns()[1]\n"
        "for (int n = 0; run.isBuilding() && n < 100; n++) Thread.sleep(100)\n"
        "print([run.result, run.queueId, run.getLog(20).join('|')].join(' '))"
    )
    assert told.startswith(f"NOT_BUILT {queue_id} ")
    assert "[provisioner] The image maven:none was not found. (image_not_found)" in told


async def test_a_task_without_a_record_is_cancelled_and_tells_why(rig: Rig) -> None:
    queue_id = int(rig.jenkins.script(NO_JOB.replace("OWNER", rig.owner)))
    item = await rig.item(f"errand-{rig.owner}")
    assert item.kind is ItemKind.OTHER
    assert await fail(rig, item) == (FailOutcome.CANCELLED, None)
    assert await fail(rig, item) == (FailOutcome.GONE, None)
    tree = "cancelled,actions[causes[shortDescription]]"
    left = rig.jenkins.get_json(f"queue/item/{queue_id}/api/json?tree={tree}")
    assert left["cancelled"] is True
    causes = [cause["shortDescription"] for action in left["actions"] for cause in action.get("causes", ())]
    assert "The image maven:none was not found." in causes
    assert (await rig.until(ItemLeft, lambda o: o.queue_id == queue_id)).cancelled
    heard = rig.jenkins.script(
        f"for (int n = 0; System.getProperty('errand.{rig.owner}') == null && n < 100; n++) Thread.sleep(100)\n"
        f"print System.getProperty('errand.{rig.owner}')"
    )
    assert heard.endswith("AbortException: The image maven:none was not found."), heard
    assert f"(errand-{rig.owner}) makes no build record" in rig.jenkins.log_tail(60)


async def test_a_task_that_answers_nothing_hides_no_other_item(rig: Rig) -> None:
    odd = NO_JOB.replace("'errand-OWNER'", "null").replace("'errand/'", "null")
    odd = odd.replace("FullDisplayName() { name }", "FullDisplayName() { 'odd' }")
    odd = odd.replace("DisplayName() { name }", "DisplayName() { 'odd' }")
    queue_id = int(rig.jenkins.script(odd.replace("OWNER", rig.owner)))
    try:
        seen = (await rig.client.hello()).snapshot.items
        item = next(i for i in seen if i.key.queue_id == queue_id)
        assert (item.job, item.key.task, item.kind) == ("", "", ItemKind.OTHER)
        assert await fail(rig, item) == (FailOutcome.CANCELLED, None)
    finally:
        rig.jenkins.cancel(queue_id)


async def test_an_item_that_another_node_could_serve_is_spared(rig: Rig) -> None:
    job, label = f"spared-{rig.owner}", f"static-{rig.owner}"
    rig.jenkins.create_job(job, freestyle_xml("true", label=label))
    rig.jenkins.script(
        "import hudson.slaves.*\n"
        f"def node = new DumbSlave('static-{rig.owner}', '/tmp/x', new JNLPLauncher(true))\n"
        f"node.labelString = '{label}'\n"
        "jenkins.model.Jenkins.get().addNode(node)"
    )
    rig.jenkins.queue_build(job)
    item = await rig.item(job)
    assert await rig.client.explain(item)
    assert await fail(rig, item) == (FailOutcome.SPARED, None)
    assert [i["id"] for i in rig.jenkins.queue_items()] == [item.key.queue_id]


async def test_a_second_node_of_ours_spares_nothing(rig: Rig) -> None:
    job = f"ours-{rig.owner}"
    item = await rig.queued(job, freestyle_xml("true", label="maven"))
    await rig.client.register(rig.order(None))
    assert not await rig.client.explain(item)
    assert (await fail(rig, item))[0] is FailOutcome.NOT_BUILT


async def test_those_who_are_to_be_notified_hear_of_a_build_that_was_not_built(rig: Rig) -> None:
    job = f"notified-{rig.owner}"
    rig.jenkins.create_job(job, freestyle_xml("true", label="maven"))
    rig.jenkins.script(
        "import hudson.*\nimport hudson.model.*\nimport hudson.tasks.*\n"
        "class NotifiesInTest extends Notifier {\n"
        "  BuildStepMonitor getRequiredMonitorService() { BuildStepMonitor.NONE }\n"
        "  boolean perform(AbstractBuild build, Launcher launcher, BuildListener listener) {\n"
        "    listener.logger.println('notified of ' + build.result)\n    true\n  }\n}\n"
        "class BreaksInTest extends NotifiesInTest {\n"
        "  BuildStepDescriptor getDescriptor() { new BuildStepDescriptor(BreaksInTest) {\n"
        "    boolean isApplicable(Class c) { true }\n    String getDisplayName() { 'The broken one' } } }\n"
        "  boolean perform(AbstractBuild build, Launcher launcher, BuildListener listener) {\n"
        "    throw new IOException('no network')\n  }\n}\n"
        "class PublishesInTest extends Recorder {\n"
        "  BuildStepMonitor getRequiredMonitorService() { BuildStepMonitor.NONE }\n"
        "  boolean perform(AbstractBuild b, Launcher l, BuildListener o) { o.logger.println('published'); true }\n}\n"
        f"def job = Jenkins.instance.getItem('{job}')\n"
        # not through `add`, which saves what could not be read back
        "def field = hudson.util.PersistedList.getDeclaredField('data')\nfield.accessible = true\n"
        "field.get(job.publishersList).addAll([new BreaksInTest(), new NotifiesInTest(), new PublishesInTest()])"
    )
    rig.jenkins.queue_build(job)
    await fail(rig, await rig.item(job))
    assert (await rig.build_ends(job))["result"] == "NOT_BUILT"
    console = await rig.console_shows(job, "Finished: ")  # a build counts as ended before its last line
    assert "[provisioner] The broken one could not tell of this build: no network" in console
    assert console.index("(image_not_found)") < console.index("notified of NOT_BUILT") < console.index("Finished: ")
    assert "published" not in console
    no_class_of_ours_is_saved(rig, job)


async def test_run_listeners_hear_of_a_build_that_was_not_built(rig: Rig) -> None:
    job = f"heard-{rig.owner}"
    rig.jenkins.create_job(job, freestyle_xml("true", label="maven"))
    rig.jenkins.script(
        "import hudson.model.*\nimport hudson.model.listeners.RunListener\n"
        "class HeardInTest extends RunListener<Run> {\n"
        "  HeardInTest() { super(Run) }\n"
        "  void note(run, what) {\n"
        "    System.setProperty('heard.' + run.parent.name + '.' + what, String.valueOf(run.result))\n"
        "  }\n"
        "  void onStarted(Run r, TaskListener l) { note(r, 'started') }\n"
        "  void onCompleted(Run r, TaskListener l) { note(r, 'completed') }\n"
        "  void onFinalized(Run r) { note(r, 'finalized') }\n"
        "}\n"
        "hudson.ExtensionList.lookup(RunListener).add(new HeardInTest())"
    )
    try:
        rig.jenkins.queue_build(job)
        await fail(rig, await rig.item(job))
        await rig.build_ends(job)
        heard: Any = rig.jenkins.script(
            f"for (int n = 0; System.getProperty('heard.{job}.finalized') == null && n < 100; n++) Thread.sleep(100)\n"
            f"print(['started', 'completed', 'finalized'].collect {{ System.getProperty('heard.{job}.' + it) }})"
        )
        assert heard == "[null, NOT_BUILT, NOT_BUILT]"
    finally:
        rig.jenkins.script(
            "def all = hudson.ExtensionList.lookup(hudson.model.listeners.RunListener)\n"
            "all.findAll { it.class.name == 'HeardInTest' }.each { all.remove(it) }"
        )
