"""The throw-away controller itself: builds run, and a restart keeps the home and the address."""

from __future__ import annotations

from typing import Any

from controller import RealController, freestyle_xml, pipeline_xml

from tests.standin_process import real_controller


def test_a_queued_build_waits_with_its_parameters_and_can_be_cancelled(real_jenkins: RealController) -> None:
    real_jenkins.create_job("smoke", freestyle_xml("true", label="nowhere", parameters={"P": "default"}))
    queue_id = real_jenkins.queue_build("smoke", {"P": 'it\'s "ü" ${x}'})
    assert queue_id in [item["id"] for item in real_jenkins.queue_items()]
    assert (
        real_jenkins.script(
            f"print jenkins.model.Jenkins.get().queue.getItem({queue_id}L)"
            ".getAction(hudson.model.ParametersAction).getParameter('P').value"
        )
        == 'it\'s "ü" ${x}'
    )
    assert real_jenkins.cancel(queue_id) == 204
    assert queue_id not in [item["id"] for item in real_jenkins.queue_items()]


def test_a_restart_keeps_jobs_and_token(tmp_path: Any) -> None:
    with real_controller(tmp_path / "home") as jenkins:
        jenkins.create_job("kept", pipeline_xml("echo 'hello'"))
        before = (jenkins.token, jenkins.url, jenkins.pid)
        jenkins.restart()
        assert (jenkins.token, jenkins.url) == before[:2]
        assert jenkins.pid != before[2]
        jenkins.queue_build("kept")
        assert jenkins.wait_build("kept")["result"] == "SUCCESS"


SLOW_END = """
import hudson.model.*
import hudson.model.listeners.RunListener
class SlowEndInTest extends RunListener<Run> {
    SlowEndInTest() { super(Run) }
    void onCompleted(Run run, TaskListener listener) { if (run.parent.name == 'slow-end') Thread.sleep(2000) }
}
hudson.ExtensionList.lookup(RunListener).add(new SlowEndInTest())
"""
NO_SLOW_END = """
def all = hudson.ExtensionList.lookup(hudson.model.listeners.RunListener)
all.findAll { it.class.name == 'SlowEndInTest' }.each { all.remove(it) }
"""


def test_a_build_that_was_waited_for_has_its_whole_console(real_jenkins: RealController) -> None:
    """Jenkins calls it ended before it tells its listeners, and only then comes the last line."""
    real_jenkins.create_job("slow-end", pipeline_xml("echo 'hello'"))
    real_jenkins.script(SLOW_END)
    try:
        real_jenkins.queue_build("slow-end")
        assert real_jenkins.wait_build("slow-end")["result"] == "SUCCESS"
        assert real_jenkins.console("slow-end").endswith("\nFinished: SUCCESS\n")
    finally:
        real_jenkins.script(NO_SLOW_END)
        real_jenkins.delete_job("slow-end")
