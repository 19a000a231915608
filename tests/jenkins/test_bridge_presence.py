"""How the bridge comes in, who may use it, what it survives, and that it goes without a trace."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from controller import RealController, freestyle_xml, pipeline_xml

from provisioner.controller.bridge_answers import Installation
from provisioner.controller.bridge_client import BridgeClient
from provisioner.controller.bridge_script import content, read_marker, render_init, render_removal, render_script
from provisioner.controller.port import (
    BridgeMode,
    BuildFinished,
    FailOutcome,
    ItemBuildable,
    NodeOffline,
    NodeOnline,
)
from provisioner.model.errors import ControllerError
from tests.jenkins.bridge_rig import Agents, Rig, named, shell_job
from tests.standin_process import real_controller

ONE_OF_EACH = {"queue": 1, "executor": 1, "computer": 1, "node": 1, "run": 1, "label": 1, "dispatcher": 1}

#: An account with Overall/Read and Job/Read, and its token, printed.
LEAST_ACCOUNT = """
import hudson.model.*
import hudson.security.*
import jenkins.model.Jenkins
import jenkins.security.ApiTokenProperty
def jenkins = Jenkins.get()
def strategy = new ProjectMatrixAuthorizationStrategy()
strategy.add(Jenkins.ADMINISTER, org.jenkinsci.plugins.matrixauth.PermissionEntry.user('admin'))
['sidecar', 'other'].each { id ->
  def entry = org.jenkinsci.plugins.matrixauth.PermissionEntry.user(id)
  strategy.add(Jenkins.READ, entry)
  strategy.add(Item.READ, entry)
}
jenkins.authorizationStrategy = strategy
jenkins.save()
print(['sidecar', 'other'].collect { id ->
  def user = jenkins.securityRealm.createAccount(id, UUID.randomUUID().toString())
  def token = user.getProperty(ApiTokenProperty).tokenStore.generateNewToken('test')
  user.save()
  token.plainValue
}.join(' '))
"""


async def test_it_is_there_once_however_often_it_is_put_in(rig: Rig) -> None:
    first = await rig.client.status()
    assert first is not None
    assert (first.mode, first.listeners, first.events_lost) == (BridgeMode.SCRIPT, ONE_OF_EACH, 0)
    assert not (await rig.client.install()).done
    kept = await rig.client.status()
    assert kept is not None
    assert kept.epoch == first.epoch
    assert (await rig.client.install(replace=True)).done
    replaced = await rig.client.status()
    assert replaced is not None
    assert replaced.epoch != first.epoch
    assert replaced.listeners == ONE_OF_EACH


def of_another_release(**parameters: Any) -> str:
    """The script as another release of the same version would have it."""
    script = render_script()
    constant = script.split("PROVISIONER_BRIDGE_PARAMETERS = '")[1].split("'")[0]
    told = {**json.loads(base64.b64decode(constant)), "content": "0123456789ab", **parameters}
    return script.replace(constant, base64.b64encode(json.dumps(told).encode()).decode())


async def test_of_one_version_another_release_is_replaced_unless_somebody_works_with_it(rig: Rig) -> None:
    owner = f"{rig.owner}-b"
    theirs, rival = (
        BridgeClient(rig.http, controller="main", user="u", owner=owner, holder=holder) for holder in ("01-b", "02-c")
    )
    try:
        assert read_marker(rig.jenkins.script(of_another_release(replace=True)))["installed"] is True
        assert (await rig.client.install()).done
        status = await rig.client.status()
        assert status is not None
        assert (status.content, status.listeners) == (content(), ONE_OF_EACH)

        rig.jenkins.script(of_another_release(replace=True))
        epoch = (await theirs.hello()).epoch
        assert await rig.client.install() == Installation(done=False, used_by=(owner,))
        assert await rival.install() == Installation(done=False, used_by=(owner,))
        status = await rig.client.status()
        assert status is not None
        assert (status.content, status.epoch) == ("0123456789ab", epoch)
        # whoever works under an owner id keeps it over a replacement
        assert (await theirs.install()).done
        with pytest.raises(ControllerError, match="another provisioner with the id"):
            await rival.hello()
        assert (await theirs.hello()).epoch != epoch
    finally:
        await theirs.close()
        await rival.close()


async def test_those_that_put_it_in_at_once_put_in_one(rig: Rig) -> None:
    assert await rig.client.uninstall()
    clients = [BridgeClient(rig.http, controller="main", user="u", owner=f"{rig.owner}-{n}") for n in range(3)]
    try:
        done = await asyncio.gather(*(client.install() for client in clients))
        assert sorted(one.done for one in done) == [False, False, True]
        status = await rig.client.status()
        assert status is not None
        assert status.listeners == ONE_OF_EACH
    finally:
        for client in clients:
            await client.close()


async def test_an_older_bridge_does_not_replace_a_newer_one(rig: Rig) -> None:
    newer = render_script(replace=True).replace("VERSION = '1.2.0'", "VERSION = '1.10.0'")
    assert read_marker(rig.jenkins.script(newer))["installed"] is True
    try:
        assert not (await rig.client.install(replace=True)).done
        status = await rig.client.status()
        assert status is not None
        assert status.bridge == "1.10.0"
    finally:
        assert await rig.client.uninstall()
        assert (await rig.client.install()).done


async def test_removing_it_leaves_the_controller_as_it_was(rig: Rig) -> None:
    order = rig.order(None)
    await rig.launch(order)
    await rig.until(NodeOnline, lambda o: o.name == order.name)
    assert await rig.client.uninstall()
    # a node of ours, still connected but without its guard, must match nothing but its own name
    job = f"unguarded-{rig.owner}"
    rig.jenkins.create_job(job, freestyle_xml("true", label="maven"))
    queue_id = rig.jenkins.queue_build(job)
    rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
    assert [item["id"] for item in rig.jenkins.queue_items()] == [queue_id]
    assert await rig.client.status() is None
    count = (
        "print([hudson.model.queue.QueueListener,"
        " hudson.model.ExecutorListener, hudson.slaves.ComputerListener, jenkins.model.NodeListener,"
        " hudson.model.listeners.RunListener, hudson.model.LabelFinder, hudson.model.queue.QueueTaskDispatcher]"
        ".sum { hudson.ExtensionList.lookup(it).count { e -> e.class.name.startsWith('Provisioner') } })"
    )
    assert rig.jenkins.script(count) == "0"
    assert not await rig.client.uninstall()
    assert (await rig.client.install()).done


async def test_a_replacement_keeps_what_the_nodes_are_for(rig: Rig) -> None:
    mine, other = f"kept-{rig.owner}", f"kept-other-{rig.owner}"
    rig.jenkins.create_job(mine, freestyle_xml("true", label="maven"))
    await rig.queued(other, freestyle_xml("true", label="maven"))
    rig.jenkins.queue_build(mine)
    order = rig.order(await rig.item(mine), lines=("from before",))
    registration = await rig.client.register(order)
    assert (await rig.client.install(replace=True)).done
    rig.agents.start(order.name, registration.secret)
    await rig.node_finishes(order.name)
    assert (await rig.build_ends(mine))["builtOn"] == order.name
    assert "[provisioner] from before" in rig.jenkins.console(mine)
    hello = await rig.client.hello()
    assert hello.unknown == frozenset()
    assert [(n.name, n.started_once, n.finished) for n in hello.snapshot.nodes] == [(order.name, True, True)]


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
async def test_a_running_build_keeps_its_log_over_a_replacement(rig: Rig, tmp_path: Path, kind: str) -> None:
    job, go = f"replaced-{kind}-{rig.owner}", tmp_path / "go"
    shell = f"echo waits; until [ -e '{go}' ]; do sleep 0.2; done"
    order = rig.order(await rig.queued(job, shell_job(kind, shell)))
    await rig.begin(order)
    await rig.console_shows(job, "+ echo waits")
    assert (await rig.client.install(replace=True)).done
    await rig.client.log(order.name, None, ["told to the later installation"])
    await rig.console_shows(job, "[provisioner] told to the later installation")
    go.touch()
    await rig.node_finishes(order.name)
    assert (await rig.build_ends(job))["result"] == "SUCCESS"


async def test_a_bridge_that_forgot_a_node_takes_it_up_again(rig: Rig) -> None:
    job = f"adopted-{rig.owner}"
    order = rig.order(await rig.queued(job, freestyle_xml("true", label="maven")))
    registration = await rig.client.register(order)
    await rig.client.uninstall()
    rig.agents.start(order.name, registration.secret)
    await rig.client.install()
    hello = await rig.client.hello()
    assert hello.unknown == {order.name}
    assert [item.key for item in hello.snapshot.items] == [order.request.key]  # type: ignore[union-attr]
    assert await rig.client.adopt(order)
    await rig.node_finishes(order.name)
    missing = rig.order(None)
    assert not await rig.client.adopt(missing)


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
async def test_a_build_that_ended_while_no_bridge_was_there_is_told_as_finished(
    rig: Rig, tmp_path: Path, kind: str
) -> None:
    job, go = f"unseen-{kind}-{rig.owner}", tmp_path / "go"
    shell = f"until [ -e '{go}' ]; do sleep 0.2; done"
    order = rig.order(await rig.queued(job, shell_job(kind, shell)))
    await rig.begin(order)
    await rig.client.uninstall()
    go.touch()
    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    await rig.client.install()
    assert await rig.client.adopt(replace(order, started=True))
    await rig.node_finishes(order.name)


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_pipeline_comes_back_to_its_own_agent_after_a_restart(rig: Rig, end: str) -> None:
    job, waiting = f"resumed-{rig.owner}", f"waiting-{rig.owner}"
    rig.jenkins.create_job(job, pipeline_xml("node('maven') { sh 'sleep 8; echo on $NODE_NAME' }"))
    rig.jenkins.create_job(waiting, freestyle_xml("true", label="maven"))
    rig.jenkins.queue_build(job)
    order = rig.order(await rig.item(job))
    await rig.begin(order)
    await rig.console_shows(job, "sleep 8")
    saved = rig.jenkins.home / "jobs" / job / "builds" / "1" / "program.dat"
    async with asyncio.timeout(30):  # Jenkins saves that the step runs only after its output has begun
        while b"/durable-" not in saved.read_bytes():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    rig.jenkins.queue_build(waiting)
    waits = await rig.item(waiting)
    await rig.close()

    await asyncio.to_thread(getattr(rig.jenkins, end))
    await asyncio.to_thread(rig.jenkins.start)
    again = Rig(rig.jenkins, rig.agents, owner=rig.owner)
    try:
        await again.open()
        hello = await again.client.hello()
        assert [node.name for node in hello.snapshot.nodes] == [order.name]
        if end == "stop":  # a clean end keeps id, entry and task; after a kill ids come again
            assert waits.key in [item.key for item in hello.snapshot.items]
        assert await again.client.adopt(replace(order, started=True))
        assert (await again.build_ends(job))["result"] == "SUCCESS"
        assert f"on {order.name}" in rig.jenkins.console(job)
        await again.node_finishes(order.name)
        assert rig.jenkins.build(waiting, 1) is None  # nothing else was let onto the agent
        await again.client.log(order.name, None, ["after the restart"])
        await again.client.remove(order.name)
    finally:
        await again.close()


async def test_two_owners_do_not_disturb_each_other(rig: Rig, agents: Agents) -> None:
    other = Rig(rig.jenkins, agents)
    await other.open()
    try:
        order = rig.order(None)
        await rig.launch(order)
        await rig.until(NodeOnline, lambda o: o.name == order.name)
        for refused in (other.client.remove(order.name), other.client.register(order), other.client.bar(order.name)):
            with pytest.raises(ControllerError) as error:
                await refused
            assert error.value.code == 409
        assert (await other.client.hello()).snapshot.nodes == ()
        job = f"shared-{rig.owner}"
        rig.jenkins.create_job(job, freestyle_xml("true", label="maven"))
        rig.jenkins.queue_build(job)
        item = await other.item(job)
        assert item == await rig.item(job)
        assert not [o for o in other.seen if not isinstance(o, ItemBuildable)]
        # what one of them has an agent on its way for is no failure of the other's
        made = other.order(item)
        await other.client.register(made)
        assert await rig.client.explain(item)
        told = {"reason": "image_denied", "message": "no", "lines": [], "retryable": False}
        assert (await rig.client.fail(item, **told))[0] is FailOutcome.SPARED  # type: ignore[arg-type]
        await other.client.remove(made.name)
        assert (await rig.client.fail(item, **told))[0] is FailOutcome.NOT_BUILT  # type: ignore[arg-type]
    finally:
        await other.close()


async def test_of_two_provisioners_of_one_owner_the_second_is_refused(rig: Rig, agents: Agents) -> None:
    def client(holder: str) -> BridgeClient:
        return BridgeClient(rig.http, controller="main", user="u", owner=f"{rig.owner}-held", holder=holder)

    first, second = client("01-a"), client("02-b")
    try:
        hello = await first.hello()
        order = replace(rig.order(None), owner=f"{rig.owner}-held")
        secret = (await first.register(order)).secret
        refused = (second.hello(), second.remove(order.name), second.events(epoch=hello.epoch, since=0, wait_s=0))
        for call in refused:
            with pytest.raises(ControllerError, match="another provisioner with the id") as error:
                await call
            assert (error.value.code, error.value.retryable) == (423, True)
        (node,) = (await first.hello()).snapshot.nodes
        assert (node.name, node.online, node.connected) == (order.name, False, False)
        agents.start(order.name, secret)
        async with asyncio.timeout(45):
            while not (await first.hello()).snapshot.nodes[0].connected:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await first.remove(order.name)
    finally:
        await first.close()
        await second.close()


async def test_a_reader_that_fell_behind_is_told_to_start_again(rig: Rig) -> None:
    hello = await rig.client.hello()
    assert (await rig.client.events(epoch="another", since=0, wait_s=0)).resync
    assert (await rig.client.events(epoch=hello.epoch, since=hello.seq + 1000, wait_s=0)).resync
    rig.jenkins.script(
        "def action = jenkins.model.Jenkins.get().actions.find { it.class.name == 'ProvisionerBridgeAction' }\n"
        "6000.times { action.@bridge.emit('left', null, [id: it, since_ms: 0, cancelled: true, node: null], null) }"
    )
    assert (await rig.client.events(epoch=hello.epoch, since=hello.seq, wait_s=5)).resync


async def test_a_quiet_controller_is_told_by_a_resync_and_keeps_the_items_of_agents(rig: Rig) -> None:
    job = f"quiet-{rig.owner}"
    item = await rig.queued(job, freestyle_xml("true", label="maven"))
    await rig.client.register(rig.order(item))
    hello = await rig.client.hello()
    rig.jenkins.script("jenkins.model.Jenkins.get().doQuietDown(false, 0, null, false)")
    try:
        assert (await rig.client.events(epoch=hello.epoch, since=hello.seq, wait_s=5)).resync
        rig.jenkins.script("jenkins.model.Jenkins.get().queue.maintain()")
        now = (await rig.client.hello()).snapshot
        assert now.info.quieting_down
        assert [i.key for i in now.items] == [item.key]
    finally:
        rig.jenkins.script("jenkins.model.Jenkins.get().doCancelQuietDown()")


async def test_texts_of_jobs_labels_and_lines_stay_texts(rig: Rig) -> None:
    evil = "a\"b'c\n${System.exit(1)}\\ <b>&amp; ''' $x [1] {} null"
    job = "evil ' {x} ü " + rig.owner
    rig.jenkins.create_job(
        job,
        freestyle_xml('printf "%s" "$WANTED"', label='"odd ${label} \'x"', parameters={"WANTED": "default"}),
    )
    rig.jenkins.queue_build(job, {"WANTED": evil})
    item = await rig.item(job)
    assert item.parameters == {"WANTED": evil}
    assert item.label == '"odd ${label} \'x"'
    order = rig.order(
        item, labels=("odd ${label} 'x",), lines=(evil, "\x1b[8mha:AAAA\x1b[0mnote", "nul \x00 bell \x07")
    )
    await rig.launch(order)
    await rig.until(BuildFinished, lambda o: o.name == order.name)
    assert (await rig.build_ends(job))["result"] == "SUCCESS"
    console = rig.jenkins.console(job)
    assert "[provisioner] a\"b'c\n[provisioner] ${System.exit(1)}\\ <b>&amp; ''' $x [1] {} null\n" in console
    assert "[provisioner] ha:AAAAnote\n[provisioner] nul  bell \n" in console
    for param in ('x"; System.exit(1); "', "[1]", "{}", "null", "ü ${1+1}"):
        with pytest.raises(ControllerError):
            await rig.client.give(param, item)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "apply", b"not json", 400),
        ("POST", "apply", b"[]", 400),
        ("POST", "apply", json.dumps({"protocol": 99, "owner": "x", "ops": []}).encode(), 409),
        ("POST", "apply", json.dumps({"protocol": 1, "owner": "a b", "ops": []}).encode(), 400),
        ("POST", "apply", json.dumps({"protocol": 1, "owner": "x", "ops": [1]}).encode(), 400),
        ("GET", "apply", None, 405),
        ("GET", "events?owner=x&epoch=y&since=-1&wait=1", None, 400),
    ],
)
async def test_a_bad_call_gets_a_clear_refusal(
    rig: Rig, method: str, path: str, body: bytes | None, status: int
) -> None:
    answer = rig.jenkins.request(
        method, f"provisioner-bridge/{path}", body=body, content_type="application/json" if body else None
    )
    assert answer.status == status
    assert answer.json()["error"]
    if status == 409:
        assert answer.json()["speaks"] == [1]


async def test_a_bad_op_does_not_stop_the_next(rig: Rig) -> None:
    order = rig.order(None)
    bad = [{"op": "nonsense"}, {"op": "register", "name": "a/b", "launcher": "websocket", "remote_fs": "/x"},
           {"op": "register", "name": 5}, {"op": "fail", "request": {"id": "1"}, "reason": "r", "message": "m"},
           {"op": "log", "lines": "text"}]  # fmt: skip
    good = {"op": "register", "name": order.name, "launcher": "tcp", "remote_fs": "/x", "labels": []}
    answer = rig.http.post(
        "provisioner-bridge/apply", {"protocol": 1, "owner": rig.owner, "ops": [*bad, good]}, op="test"
    )
    assert [(r["ok"], r.get("code")) for r in answer["results"]] == [(False, 400)] * len(bad) + [(True, None)]


@pytest.fixture
def init_jenkins(tmp_path: Path) -> Iterator[RealController]:
    """A controller of its own, whose administrator dropped the file into `init.groovy.d`."""
    init = tmp_path / "home" / "init.groovy.d"
    init.mkdir(parents=True)
    (init / "provisioner-bridge.groovy").write_text(render_init(user="sidecar", owners=["prod-a"]))
    with real_controller(tmp_path / "home") as jenkins:
        yield jenkins


async def test_the_init_bridge_serves_one_account_of_least_permissions(
    init_jenkins: RealController, tmp_path: Path
) -> None:
    sidecar, stranger = init_jenkins.script(LEAST_ACCOUNT).split()
    agents = Agents(init_jenkins, tmp_path / "agents")
    rig = Rig(init_jenkins, agents, owner="prod-a", user="sidecar", token=sidecar)
    try:
        status = await rig.client.status()
        assert status is not None
        assert (status.mode, status.listeners, status.owners) == (BridgeMode.INIT, ONE_OF_EACH, ("prod-a",))
        with pytest.raises(ControllerError) as refused:
            await rig.client.install()
        assert refused.value.code == 403
        await rig.open(install=False)

        # the main job, both kinds, and both failures
        init_jenkins.create_job("free", freestyle_xml("true", label="maven"))
        init_jenkins.create_job("pipe", pipeline_xml("node('maven') { sh 'true' }"))
        for job in ("free", "pipe"):
            init_jenkins.queue_build(job)
            item = await rig.item(job)
            order = rig.order(item, lines=("by the init bridge",))
            await rig.launch(order)
            await rig.until(BuildFinished, named(order.name))
            await rig.client.remove(order.name)
            await rig.until(NodeOffline, named(order.name))
            assert (await rig.build_ends(job))["result"] == "SUCCESS"
            assert "[provisioner] by the init bridge" in init_jenkins.console(job)
            init_jenkins.queue_build(job)
            second = await rig.item(job, but=[item])
            outcome, _ = await rig.client.fail(second, reason="image_denied", message="no", lines=[], retryable=False)
            assert outcome in {FailOutcome.NOT_BUILT, FailOutcome.STEP_FAILED}
        assert init_jenkins.nodes() == []

        # a job that the account may not read is not told
        init_jenkins.script(
            "import hudson.model.*\nimport hudson.security.*\nimport org.jenkinsci.plugins.matrixauth.inheritance.*\n"
            "def job = jenkins.model.Jenkins.get().getItem('free')\n"
            "def property = new AuthorizationMatrixProperty([:])\n"
            "property.inheritanceStrategy = new NonInheritingStrategy()\n"
            "job.addProperty(property)"
        )
        before = len(rig.seen)
        init_jenkins.queue_build("free")
        init_jenkins.queue_build("pipe")
        await rig.until(ItemBuildable, lambda o: o in rig.seen[before:] and o.item.job == "pipe")
        assert not [o for o in rig.seen[before:] if isinstance(o, ItemBuildable) and o.item.job == "free"]
        assert {i.job for i in (await rig.client.hello()).snapshot.items} == {"pipe"}

        # what nobody else may, and what this account may not
        for user, token, owner in (("sidecar", sidecar, "prod-b"), ("other", stranger, "prod-a"),
                                   ("admin", init_jenkins.token, "prod-a")):  # fmt: skip
            body = json.dumps({"protocol": 1, "owner": owner, "ops": []}).encode()
            answer = init_jenkins.request(
                "POST", "provisioner-bridge/apply", body=body, content_type="application/json", auth=(user, token)
            )
            assert answer.status == 403, (user, owner)
        for path in ("scriptText", "computer/doCreateItem", "job/pipe/build", "queue/cancelItem?id=1"):
            answer = init_jenkins.request("POST", path, form={"script": "print 1"}, auth=("sidecar", sidecar))
            assert answer.status in {403, 404}, path

        # it comes back by itself after a restart, and the nodes are to be adopted
        order = rig.order(None)
        await rig.client.register(order)
        await rig.close()
        await asyncio.to_thread(init_jenkins.restart)
        rig = Rig(init_jenkins, agents, owner="prod-a", user="sidecar", token=sidecar)
        hello = await rig.client.hello()
        assert hello.unknown == {order.name}
        assert await rig.client.adopt(order)
        assert (await rig.client.hello()).unknown == frozenset()
        assert read_marker(init_jenkins.script(render_removal()))["removed"] == len(ONE_OF_EACH) + 1
    finally:
        await rig.close()
        agents.end()
