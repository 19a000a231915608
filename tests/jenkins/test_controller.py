"""The throw-away controller itself: builds run, and a restart keeps the home and the address."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def test_a_queued_build_waits_with_its_parameters_and_can_be_cancelled(
    real_jenkins: Any, jenkins_tools: ModuleType
) -> None:
    real_jenkins.create_job("smoke", jenkins_tools.freestyle_xml("true", label="nowhere", parameters={"P": "default"}))
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


def test_a_restart_keeps_jobs_and_token(jenkins_tools: ModuleType, tmp_path: Any) -> None:
    try:
        jenkins = jenkins_tools.RealController(tmp_path / "home")
        jenkins.start()
    except jenkins_tools.NoController as error:
        import pytest

        pytest.skip(f"no real Jenkins here: {error}")
    try:
        jenkins.create_job("kept", jenkins_tools.pipeline_xml("echo 'hello'"))
        before = (jenkins.token, jenkins.url, jenkins.pid)
        jenkins.restart()
        assert (jenkins.token, jenkins.url) == before[:2]
        assert jenkins.pid != before[2]
        jenkins.queue_build("kept")
        assert jenkins.wait_build("kept")["result"] == "SUCCESS"
    finally:
        jenkins.stop()
