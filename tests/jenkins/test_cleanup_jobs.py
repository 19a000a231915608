"""The sample cleanup job on a real node.

It kills and deletes, so its agent lives in process and mount name spaces of its own, with a `docker` that only
writes down what it was asked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from controller import RealController, freestyle_xml

from tests.jenkins.cleanup_plant import CleanupProcess, Plant
from tests.seen_processes import processes

JOBS = Path(__file__).parents[2] / "jenkins-test" / "jobs"
NAME = "sample-node"
FOLDER = "<com.cloudbees.hudson.plugins.folder.Folder/>"
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
    BUILD_ID=dontKillMe setsid sh -c 'trap "" TERM; touch ../../left; while :; do sleep 1; done' \
        > /dev/null 2>&1 &
    NODE_NAME=other-node BUILD_ID=dontKillMe setsid sh -c 'touch ../../others; while :; do sleep 1; done' \
        > /dev/null 2>&1 &
    # what is not a program of its own when the build ends is still a part of it, and is ended with it
    while [ ! -e ../../left ] || [ ! -e ../../others ]; do sleep 0.1; done
"""


def _add_node(jenkins: RealController, name: str, root: Path, label: str = "") -> str:
    """The secret of its agent."""
    node = {
        "name": name,
        "nodeDescription": "",
        "numExecutors": "1",
        "remoteFS": str(root),
        "labelString": label,
        "mode": "EXCLUSIVE",
        "type": "hudson.slaves.DumbSlave",
        "retentionStrategy": {"stapler-class": "hudson.slaves.RetentionStrategy$Always"},
        "nodeProperties": {"stapler-class-bag": "true"},
        "launcher": {"stapler-class": "hudson.slaves.JNLPLauncher", "webSocket": True},
    }
    form = {"name": name, "type": "hudson.slaves.DumbSlave", "json": json.dumps(node)}
    assert jenkins.request("POST", "computer/doCreateItem", form=form).status == 302
    launch = jenkins.request("GET", f"computer/{name}/jenkins-agent.jnlp").text
    secret = re.search(r"<argument>([0-9a-f]{64})</argument>", launch)
    assert secret is not None
    return secret[1]


@pytest.fixture
def node(real_jenkins: RealController, tmp_path: Path) -> Iterator[Path]:
    """The node's root folder."""
    if os.geteuid() != 0:
        pytest.skip("name spaces of its own need root")
    secret = _add_node(real_jenkins, NAME, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "secret").write_text(secret)
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


def test_the_sample_cleans_what_an_earlier_build_left(real_jenkins: RealController, node: Path) -> None:
    real_jenkins.create_job("sample-cleanup", (JOBS / "node-cleanup" / "config.xml").read_text())
    real_jenkins.create_job("leaves", freestyle_xml(LEAVE, label=NAME))
    real_jenkins.queue_build("leaves")
    assert real_jenkins.wait_build("leaves")["result"] == "SUCCESS"
    assert (node / "workspace" / "other" / "file").exists()

    real_jenkins.queue_build("sample-cleanup", {"NODE": NAME})
    build = real_jenkins.wait_build("sample-cleanup", 1, within_s=120)
    console = real_jenkins.console("sample-cleanup", 1)
    assert build["result"] == "SUCCESS", console
    assert "TERM to" in console
    assert "KILL to" in console
    left_behind = [environ for _, environ in processes() if "BUILD_TAG=jenkins-leaves-1" in environ]
    assert any("NODE_NAME=other-node" in environ for environ in left_behind)  # another node's build on this machine
    assert not any(f"NODE_NAME={NAME}" in environ for environ in left_behind)
    assert f"umount {node}/workspace/mounted" in console
    left = [path.name for path in (node / "workspace").iterdir()]
    assert [name for name in left if not name.startswith("sample-cleanup")] == []
    asked = (node / "tools" / "docker.log").read_text().splitlines()
    assert [line for line in asked if line.startswith("rm")] == ["rm --force --volumes left"]

    # one step that cannot work stops no other, and the build says which; a job in a folder sees all workspaces, too
    (node / "tools" / "fail").touch()
    for workspace in ("again", "admin/another", "admin/cleanup-old"):
        (node / "workspace" / workspace).mkdir(parents=True)
    real_jenkins.create_job("admin", FOLDER)
    real_jenkins.create_job("admin/cleanup", (JOBS / "node-cleanup" / "config.xml").read_text())
    real_jenkins.queue_build("admin/cleanup", {"NODE": NAME})
    build = real_jenkins.wait_build("admin/cleanup", 1, within_s=120)
    assert build["result"] == "FAILURE"
    console = real_jenkins.console("admin/cleanup", 1)
    assert f"{NAME} is not clean: containers, volumes and networks" in console
    for folder in (node / "workspace", node / "workspace" / "admin"):
        assert {path.name.partition("@")[0] for path in folder.iterdir()} <= {"admin", "cleanup"}
    for job in ("sample-cleanup", "leaves", "admin"):
        real_jenkins.delete_job(job)


@pytest.mark.timeout(900)
def test_the_schedulers_job_cleans_what_is_due_and_is_red_if_a_node_needs_a_person(
    real_jenkins: RealController, tmp_path: Path
) -> None:
    plant = Plant(real_jenkins, tmp_path / "nodes", ("j1",))
    # as on the node of an administrator, but for the places of command and file
    file = CleanupProcess(plant, tmp_path, "provisioner", retries=0).file
    xml = (JOBS / "cleanup-scheduler" / "config.xml").read_text()
    assert "-c /etc/jenkins-provisioner/provisioner.yaml" in xml
    xml = xml.replace("/etc/jenkins-provisioner/provisioner.yaml", str(file))
    assert "<spec>H/5 * * * *</spec>" in xml
    xml = xml.replace("H/5 * * * *", "H H 29 2 *")  # its timer would do meanwhile what a build of this test is to do
    xml = xml.replace("'provisioner cleanup", f"'PATH={Path(sys.executable).parent}:$PATH; provisioner cleanup")
    real_jenkins.script(
        f"""
        def token = hudson.util.Secret.fromString('{real_jenkins.token}')
        def entry = new org.jenkinsci.plugins.plaincredentials.impl.StringCredentialsImpl(
            com.cloudbees.plugins.credentials.CredentialsScope.GLOBAL, 'provisioner-token', '', token)
        com.cloudbees.plugins.credentials.SystemCredentialsProvider.instance.store.addCredentials(
            com.cloudbees.plugins.credentials.domains.Domain.global(), entry)
        """
    )
    try:
        plant.agents.start("admin-1", _add_node(real_jenkins, "admin-1", tmp_path / "nodes" / "admin-1", "provisioner"))
        real_jenkins.create_job("sample-scheduler", xml)
        made = real_jenkins.request("GET", "job/sample-scheduler/config.xml").text
        assert "<spec>H H 29 2 *</spec>" in made
        assert "DisableConcurrentBuildsJobProperty" in made

        number = _run_scheduler(real_jenkins)
        console = real_jenkins.console("sample-scheduler", number)
        assert real_jenkins.begun("sample-scheduler", number)["result"] == "SUCCESS", console
        assert "j1: mark-clean: its cleaning #1 succeeded: done" in console
        assert real_jenkins.token not in console
        assert plant.is_clean("j1")

        plant.spoil("j1", "broken")
        plant.save_form("j1", "text.replaceFirst(' clean$', '')")
        number = _run_scheduler(real_jenkins)
        console = real_jenkins.console("sample-scheduler", number)
        assert real_jenkins.begun("sample-scheduler", number)["result"] == "FAILURE", console
        assert "j1: quarantine: its cleaning #2 ended as FAILURE: http" in console
        assert re.search(r"^j1 +quarantined ", console, re.MULTILINE)
    finally:
        real_jenkins.delete_job("sample-scheduler")
        real_jenkins.request("POST", "computer/admin-1/doDelete")
        plant.remove()
        real_jenkins.script(
            "def store = com.cloudbees.plugins.credentials.SystemCredentialsProvider.instance.store\n"
            "def all = com.cloudbees.plugins.credentials.domains.Domain.global()\n"
            "def ours = store.getCredentials(all).findAll { it.id == 'provisioner-token' }\n"
            "ours.each { store.removeCredentials(all, it) }"
        )


def _run_scheduler(jenkins: RealController) -> int:
    """The number of a build that began after this."""
    last = jenkins.build("sample-scheduler")
    number = 1 if last is None else int(last["number"]) + 1
    jenkins.queue_build("sample-scheduler")
    jenkins.wait_build("sample-scheduler", number, within_s=300)
    return number


@pytest.mark.parametrize("job", ["node-cleanup", "cleanup-scheduler"])
def test_job_dsl_makes_the_job_of_the_plain_configuration(real_jenkins: RealController, job: str) -> None:
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
