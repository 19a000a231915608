"""The sample cleanup job on a real node.

It kills and deletes, so its agent lives in process and mount name spaces of its own, with a `docker` that only
writes down what it was asked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

JOBS = Path(__file__).parents[2] / "jenkins-test" / "jobs"
NAME = "sample-node"
FAKE_DOCKER = """#!/bin/sh
echo "$@" >> {log}
[ ! -e {fail} ] || exit 1
case "$1" in
    ps) echo kept ours left ;;
    inspect) case "$4" in kept) echo '{{"keep":""}}' ;; ours) echo '{{"jenkins-provisioner.owner":"x"}}' ;; *) echo '{{}}' ;; esac ;;
esac
"""  # noqa: E501
LEAVE = """
    mkdir -p ../other ../mounted
    mount -t tmpfs none ../mounted
    touch ../other/file
    JENKINS_NODE_COOKIE=dontKillMe setsid sh -c 'trap "" TERM; while :; do sleep 1; done' > /dev/null 2>&1 &
    echo $! > ../../left.pid
"""


@pytest.fixture
def node(real_jenkins: Any, tmp_path: Path) -> Iterator[Path]:
    """The node's root folder."""
    if os.geteuid() != 0:
        pytest.skip("name spaces of its own need root")
    node = {
        "name": NAME,
        "nodeDescription": "",
        "numExecutors": "1",
        "remoteFS": str(tmp_path),
        "labelString": "",
        "mode": "EXCLUSIVE",
        "type": "hudson.slaves.DumbSlave",
        "retentionStrategy": {"stapler-class": "hudson.slaves.RetentionStrategy$Always"},
        "nodeProperties": {"stapler-class-bag": "true"},
        "launcher": {"stapler-class": "hudson.slaves.JNLPLauncher", "webSocket": True},
    }
    form = {"name": NAME, "type": "hudson.slaves.DumbSlave", "json": json.dumps(node)}
    assert real_jenkins.request("POST", "computer/doCreateItem", form=form).status == 302
    launch = real_jenkins.request("GET", f"computer/{NAME}/jenkins-agent.jnlp").text
    secret = re.search(r"<argument>([0-9a-f]{64})</argument>", launch)
    assert secret is not None
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "secret").write_text(secret[1])
    (tools / "agent.jar").write_bytes(real_jenkins.request("GET", "jnlpJars/agent.jar").body)
    docker = tools / "docker"
    docker.write_text(FAKE_DOCKER.format(log=tools / "docker.log", fail=tools / "fail"))
    docker.chmod(0o755)
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", real_jenkins.java, "-Xmx96m"]
    command += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", str(tools / "agent.jar"), "-webSocket"]
    command += ["-url", real_jenkins.url, "-name", NAME, "-secret", f"@{tools / 'secret'}", "-workDir", str(tmp_path)]
    with (tools / "log").open("wb") as log:
        agent = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        )
    try:
        yield tmp_path
    finally:
        agent.kill()
        agent.wait(timeout=10)
        real_jenkins.request("POST", f"computer/{NAME}/doDelete")


@pytest.mark.slow
def test_the_sample_cleans_what_an_earlier_build_left(real_jenkins: Any, jenkins_tools: ModuleType, node: Path) -> None:
    real_jenkins.create_job("sample-cleanup", (JOBS / "node-cleanup" / "config.xml").read_text())
    real_jenkins.create_job("leaves", jenkins_tools.freestyle_xml(LEAVE, label=NAME))
    real_jenkins.queue_build("leaves")
    assert real_jenkins.wait_build("leaves")["result"] == "SUCCESS"
    assert (node / "workspace" / "other" / "file").exists()

    real_jenkins.queue_build("sample-cleanup", {"NODE": NAME})
    build = real_jenkins.wait_build("sample-cleanup", 1, within_s=120)
    console = real_jenkins.console("sample-cleanup", 1)
    assert build["result"] == "SUCCESS", console
    assert "TERM to" in console
    assert "KILL to" in console
    assert f"umount {node}/workspace/mounted" in console
    left = [path.name for path in (node / "workspace").iterdir()]
    assert [name for name in left if not name.startswith("sample-cleanup")] == []
    asked = (node / "tools" / "docker.log").read_text().splitlines()
    assert [line for line in asked if line.startswith("rm")] == ["rm --force --volumes left"]

    # one step that cannot work stops no other, and the build says which
    (node / "tools" / "fail").touch()
    (node / "workspace" / "again").mkdir()
    real_jenkins.queue_build("sample-cleanup", {"NODE": NAME})
    build = real_jenkins.wait_build("sample-cleanup", 2, within_s=120)
    assert build["result"] == "FAILURE"
    console = real_jenkins.console("sample-cleanup", 2)
    assert f"{NAME} is not clean: containers, volumes and networks" in console
    assert not (node / "workspace" / "again").exists()


def test_the_schedulers_job_is_one_that_jenkins_takes(real_jenkins: Any) -> None:
    real_jenkins.create_job("sample-scheduler", (JOBS / "cleanup-scheduler" / "config.xml").read_text())
    made = real_jenkins.request("GET", "job/sample-scheduler/config.xml").text
    assert "<spec>H/5 * * * *</spec>" in made
    assert "provisioner cleanup --once" in made
    assert "DisableConcurrentBuildsJobProperty" in made
    real_jenkins.delete_job("sample-scheduler")


@pytest.mark.parametrize("job", ["node-cleanup", "cleanup-scheduler"])
def test_job_dsl_makes_the_job_of_the_plain_configuration(real_jenkins: Any, job: str) -> None:
    real_jenkins.delete_job(job)
    real_jenkins.script(
        f"""
        def made = new javaposse.jobdsl.plugin.JenkinsJobManagement(System.out, [:], new File('{JOBS}'))
        new javaposse.jobdsl.dsl.DslScriptLoader(made).runScript(new File('{JOBS / job / "job.groovy"}').text)
        """
    )
    made = _parsed(real_jenkins.request("GET", f"job/{job}/config.xml").text)
    plain = _parsed((JOBS / job / "config.xml").read_text())
    for tag in ("script", "sandbox", "name", "spec", "daysToKeep", "numToKeep", "description"):
        assert [x.text for x in made.iter(tag)] == [x.text for x in plain.iter(tag)], tag
    concurrency = "org.jenkinsci.plugins.workflow.job.properties.DisableConcurrentBuildsJobProperty"
    assert len(list(made.iter(concurrency))) == len(list(plain.iter(concurrency)))
    real_jenkins.delete_job(job)


def _parsed(xml: str) -> ET.Element:
    # this parser knows only XML 1.0
    return ET.fromstring(re.sub(r"^<\?xml[^>]*\?>", "", xml))
