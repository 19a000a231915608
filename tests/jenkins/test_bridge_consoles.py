"""What may come into a console, and what never: secrets, floods; and light-weight tasks on the nodes of others."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from controller import freestyle_xml, pipeline_xml

from provisioner.controller.port import BuildFinished, BuildStarted, NodeOnline
from tests.jenkins.bridge_rig import Rig, named, shell_job
from tests.jenkins.plant import MATRIX, provisioner_lines

SECRET = "hunter2-of-the-tests"

CREDENTIAL = """
import com.cloudbees.plugins.credentials.*
import hudson.util.Secret
import org.jenkinsci.plugins.plaincredentials.impl.StringCredentialsImpl
def store = SystemCredentialsProvider.instance
store.credentials.add(new StringCredentialsImpl(CredentialsScope.GLOBAL, '%s', '', Secret.fromString('%s')))
store.save()
"""
BINDING = (
    "<buildWrappers><org.jenkinsci.plugins.credentialsbinding.impl.SecretBuildWrapper><bindings>"
    "<org.jenkinsci.plugins.credentialsbinding.impl.StringBinding><credentialsId>{id}</credentialsId>"
    "<variable>TOKEN</variable></org.jenkinsci.plugins.credentialsbinding.impl.StringBinding></bindings>"
    "</org.jenkinsci.plugins.credentialsbinding.impl.SecretBuildWrapper></buildWrappers>"
)


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
async def test_a_bound_secret_is_masked_in_our_lines_too(rig: Rig, tmp_path: Path, kind: str) -> None:
    job, go, secret_id = f"masked-{kind}-{rig.owner}", tmp_path / "go", f"secret-{rig.owner}"
    rig.jenkins.script(CREDENTIAL % (secret_id, SECRET))
    shell = f"echo bound; until [ -e '{go}' ]; do sleep 0.2; done"
    xml = {
        "freestyle": freestyle_xml(shell, label="maven").replace("<buildWrappers/>", BINDING.format(id=secret_id)),
        "pipeline": pipeline_xml(
            f"withCredentials([string(credentialsId: '{secret_id}', variable: 'TOKEN')]) {{"
            f' node("maven") {{ sh """{shell}""" }} }}'
        ),
    }[kind]
    order = rig.order(await rig.queued(job, xml))
    await rig.begin(order)
    await rig.console_shows(job, "+ echo bound")
    await rig.client.log(order.name, None, [f"It ends with {SECRET}."])
    console = await rig.console_shows(job, "It ends with")
    go.touch()
    await rig.until(BuildFinished, lambda o: o.name == order.name)
    await rig.build_ends(job)
    assert "[provisioner] It ends with ****." in console
    assert SECRET not in rig.jenkins.console(job)


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
async def test_a_flood_of_lines_is_bounded(rig: Rig, tmp_path: Path, kind: str) -> None:
    job, go = f"flood-{kind}-{rig.owner}", tmp_path / "go"
    shell = f"echo up; until [ -e '{go}' ]; do sleep 0.2; done"
    item = await rig.queued(job, shell_job(kind, shell))
    await rig.client.log(None, item, [f"before {n}" for n in range(20_000)])
    order = rig.order(item)
    await rig.launch(order)
    await rig.console_shows(job, "+ echo up")
    for batch in range(8):
        await rig.client.log(order.name, None, [f"line {batch} {n}" for n in range(10_000)])
    go.touch()
    await rig.until(BuildFinished, lambda o: o.name == order.name)
    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    said = provisioner_lines(rig.jenkins.console(job))
    assert 2000 < len(said) <= 10_100
    assert said[0] == "before 0"
    assert any(line.endswith(" more lines are left out") for line in said)
    assert said[-1].startswith(f"Agent {order.name} is done")
    assert [line for line in said if line.endswith("the rest is left out")] in (
        [], ["The launch log is too long; the rest is left out"],
    )  # fmt: skip


@pytest.mark.parametrize("charset", ["ISO-8859-1", "UTF-8"])
async def test_lines_are_written_in_the_encoding_of_the_build(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, charset: str
) -> None:
    """A freestyle console is in its agent's encoding, and Jenkins reads all of it as that."""
    monkeypatch.setenv("JDK_JAVA_OPTIONS", f"-Dfile.encoding={charset}")
    job = f"encoded-{charset}-{rig.owner}".lower()
    order = rig.order(await rig.queued(job, freestyle_xml("true", label="maven")), lines=("größer at the top",))
    await rig.launch(order)
    await rig.until(BuildFinished, lambda o: o.name == order.name)
    await rig.build_ends(job)
    await rig.client.remove(order.name, ["größer after the end"])
    # as it stands in the file
    console = rig.jenkins.request("GET", f"job/{job}/1/consoleText").body.decode(charset)
    assert "[provisioner] größer at the top\n" in console
    assert console.endswith("[provisioner] größer after the end\n")
    # a note in the same console is still one: it is shown as a link
    shown = rig.jenkins.request("GET", f"job/{job}/1/logText/progressiveHtml?start=0").text
    assert shown.count("[provisioner] größer") == 2
    assert "href='/user/admin'" in shown or 'href="/user/admin"' in shown, shown


async def test_what_was_said_before_the_node_goes_is_in_the_console_of_the_run_that_ends_by_it(rig: Rig) -> None:
    """However many lines, and although the run ends the moment that its body is interrupted."""
    job = f"lastwords-{rig.owner}"
    order = rig.order(await rig.queued(job, pipeline_xml("node('maven') { sh 'echo up; sleep 120' }")))
    agent = await rig.launch(order)
    await rig.console_shows(job, "+ echo up")
    agent.kill()
    lines = [f"last word {n}" for n in range(1500)]
    told = rig.client.log(order.name, None, lines)
    await asyncio.gather(told, rig.client.remove(order.name, ["the very last"]))
    await rig.build_ends(job)
    said = provisioner_lines(rig.jenkins.console(job))
    assert [line for line in said if line.startswith("last word")] == lines
    assert "the very last" in said


def parent_of(rig: Rig, name: str) -> str:
    """A matrix job whose parent asks for a label, which makes it a light-weight task that may land on any node."""
    job = f"{name}-{rig.owner}"
    xml = MATRIX.format(label="cells", values="<string>1</string>", shell="true").replace(
        "<canRoam>true</canRoam>", "<assignedNode>maven</assignedNode><canRoam>false</canRoam>"
    )
    rig.jenkins.create_job(job, xml)
    return job


async def test_the_parent_of_a_matrix_does_not_stray_onto_the_node_of_another_build(rig: Rig) -> None:
    waiting = f"waiting-{rig.owner}"
    item = await rig.queued(waiting, freestyle_xml("true", label="maven"))
    # idle and online for long, since its item is none that is in the queue; and one on standby
    order = rig.order(replace(item, key=replace(item.key, since_ms=item.key.since_ms - 1)))
    standby = rig.order(None)
    await rig.launch(order)
    await rig.launch(standby)
    for name in (order.name, standby.name):
        await rig.until(NodeOnline, named(name))
    job = parent_of(rig, "parent")
    queue_id = rig.jenkins.queue_build(job)
    for _ in range(3):
        rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
        time.sleep(0.2)  # noqa: ASYNC251  (a start would be a moment later)
    assert queue_id in [i["id"] for i in rig.jenkins.queue_items()]
    assert rig.jenkins.build(job, 1) is None
    # once the other's node has gone it is buildable like anything else, and gets an agent of its own
    for name in (order.name, standby.name):
        await rig.client.remove(name)
    rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
    own = rig.order(await rig.item(job))
    await rig.launch(own)
    started = await rig.until(BuildStarted, lambda o: o.name == own.name)
    assert started.queue_id == queue_id
    await rig.console_shows(job, f"Agent {own.name} connected")
    rig.jenkins.request("POST", f"job/{job}/1/stop")
    await rig.build_ends(job)
    await rig.until(BuildFinished, lambda o: o.name == own.name)
