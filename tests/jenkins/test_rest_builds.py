"""A real controller without the bridge: labels, builds on our nodes, ends, permissions, a restart."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from controller import RealController, freestyle_xml, pipeline_xml

from provisioner.controller.bridge_script import render_removal
from provisioner.controller.connection import Connection
from provisioner.controller.labels import LINGER_S
from provisioner.controller.port import BridgeMode, FailOutcome, Fate, NodeOrder, Snapshot, Unreachable
from provisioner.controller.rest import Rest
from provisioner.controller.rest_views import BAR_REASON
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, NodeView, QueueItem
from tests.jenkins.bridge_rig import Agents
from tests.jenkins.owned_jobs import OwnedJobs

POLL_S = 0.3

#: An account with the permissions given as `Class.NAME`, beside the administrator.
ACCOUNT = """
import hudson.model.*
import hudson.security.*
import jenkins.model.*
import jenkins.security.ApiTokenProperty
def jenkins = Jenkins.get()
def name = '%s'
def before = jenkins.authorizationStrategy
def strategy = before instanceof GlobalMatrixAuthorizationStrategy ? before : new GlobalMatrixAuthorizationStrategy()
strategy.add(Jenkins.ADMINISTER, 'admin')
[%s].each { strategy.add(it, name) }
jenkins.authorizationStrategy = strategy
jenkins.securityRealm.createAccount(name, 'never used')
def user = User.getById(name, true)
print user.getProperty(ApiTokenProperty).tokenStore.generateNewToken('t').plainValue
user.save()
"""
OPEN = """
import hudson.security.*
def strategy = new FullControlOnceLoggedInAuthorizationStrategy()
strategy.allowAnonymousRead = false
jenkins.model.Jenkins.get().authorizationStrategy = strategy
"""


class Clock:
    ahead_s = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


class Rig:
    """One connection in REST mode, for one owner; everything that it makes has the owner in its name."""

    def __init__(self, jenkins: RealController, agents: Agents) -> None:
        self.jenkins = jenkins
        self.agents = agents
        self.owner = f"rest-{secrets.token_hex(3)}"
        self.owned = OwnedJobs(jenkins, self.owner)
        self.clock = Clock()
        self.connection = self.connect(jenkins.user, jenkins.token)

    def connect(self, user: str, token: str, *, bridge: str = "off") -> Connection:
        http = Rest(name="main", url=self.jenkins.url, user=user, token=token, timeout_s=20)
        return Connection(
            http, owner=self.owner, bridge=bridge, poll_interval_s=POLL_S, parameters=["WANTED"], monotonic=self.clock
        )

    def freestyle(self, label: str | None, shell: str = "true") -> str:
        return self._job(freestyle_xml(shell, label=label, parameters={"WANTED": "w", "OTHER": "o"}))

    def pipeline(self, script: str) -> str:
        return self._job(pipeline_xml(script, parameters={"WANTED": "w", "OTHER": "o"}))

    def _job(self, xml: str) -> str:
        return self.owned.add(str(len(self.owned.jobs)), xml)

    def queue(self, job: str) -> None:
        self.jenkins.queue_build(job, {"WANTED": "yes", "OTHER": "no"})

    async def until(self, found: Callable[[Snapshot], Any], *, within_s: float = 45.0) -> Any:
        async with asyncio.timeout(within_s):
            while not (what := found(await self.connection.snapshot())):  # noqa: ASYNC110  (the poll is the subject)
                await asyncio.sleep(POLL_S)
            return what

    async def item(self, job: str) -> QueueItem:
        item: QueueItem = await self.until(lambda s: next((i for i in s.items if i.job == job), None))
        return item

    async def node(self, name: str, matches: Callable[[NodeView], bool]) -> NodeView:
        def found(snapshot: Snapshot) -> NodeView | None:
            return next((n for n in snapshot.nodes if n.name == name and matches(n)), None)

        node: NodeView = await self.until(found)
        return node

    def order(self, item: QueueItem | None, *labels: str) -> NodeOrder:
        name = f"maven-{secrets.token_hex(8)}"
        return NodeOrder(
            name=name, owner=self.owner, labels=labels, remote_fs=self.agents.home(name), request=item,
            lines=("template maven on here",),
        )  # fmt: skip

    def description(self, job: str, number: int = 1) -> str:
        return self.jenkins.begun(job, number)["description"] or ""

    async def described(self, job: str, lines: int) -> None:
        """Wait until the description of its build has so many lines; they are written in the background."""
        async with asyncio.timeout(20):
            while len((await asyncio.to_thread(self.description, job)).splitlines()) < lines:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

    async def end(self) -> None:
        await self.connection.close()
        await asyncio.to_thread(self._clean)

    def _clean(self) -> None:
        self.owned.end_jobs()
        for name in self.owned.nodes():
            self.jenkins.request("POST", f"computer/{name}/doDelete")


@pytest.fixture
async def rig(real_jenkins: RealController, tmp_path: Path) -> AsyncIterator[Rig]:
    await asyncio.to_thread(real_jenkins.script, render_removal())  # another test may have left the bridge
    for name in real_jenkins.nodes():  # or a node, if it failed
        real_jenkins.request("POST", f"computer/{name}/doDelete")
    agents = Agents(real_jenkins, tmp_path / "agents")
    made = Rig(real_jenkins, agents)
    try:
        yield made
    finally:
        agents.end()
        await made.end()


@pytest.fixture
def account(rig: Rig) -> Iterator[Callable[..., Connection]]:
    """Connections of accounts with few permissions."""
    made: list[Connection] = []

    def with_permissions(*permissions: str, bridge: str = "off") -> Connection:
        name = f"user-{secrets.token_hex(3)}"
        token = rig.jenkins.script(ACCOUNT % (name, ", ".join(permissions)))
        made.append(rig.connect(name, token, bridge=bridge))
        return made[-1]

    yield with_permissions
    rig.jenkins.script(OPEN)


# -- labels


async def test_labels_of_every_kind_are_found_without_any_other_node(rig: Rig) -> None:
    assert rig.jenkins.nodes() == []
    free = rig.freestyle("rest-a && rest-b")
    wanted = {
        free: "rest-a&&rest-b",
        rig.pipeline("node('rest-a') { echo 'x' }"): "rest-a",
        rig.pipeline("node('image=maven:3.9') { echo 'x' }"): "image=maven:3.9",
        rig.pipeline("node('\"image=maven:3.9\" && (rest-a || !rest-b)') { echo 'x' }"):
            '"image=maven:3.9"&&(rest-a||!rest-b)',
        rig.pipeline("node { echo 'x' }"): None,
    }  # fmt: skip
    for job in wanted:
        rig.queue(job)
    snapshot = await rig.until(lambda s: s if len(s.items) == len(wanted) else None)
    assert {i.job: i.label for i in snapshot.items} == wanted
    assert {i.job: i.kind for i in snapshot.items}[free] is ItemKind.FREESTYLE
    assert all(i.parameters == {"WANTED": "yes"} for i in snapshot.items)
    assert snapshot.nodes == ()
    (helper,) = rig.jenkins.nodes()
    assert helper.startswith(f"{rig.owner}-placeholder-")

    for job in wanted:
        item = next(i for i in snapshot.items if i.job == job)
        rig.jenkins.cancel(item.key.queue_id)
    await rig.connection.snapshot()
    rig.clock.ahead_s = LINGER_S
    await rig.connection.snapshot()
    assert rig.jenkins.nodes() == []


async def test_a_label_is_found_where_why_names_the_only_node(rig: Rig) -> None:
    static = f"static-{rig.owner}"
    groovy = f"""import hudson.slaves.*
        def node = new DumbSlave('{static}', '/tmp/none', new JNLPLauncher(true))
        node.labelString = 'rest-one rest-two'
        jenkins.model.Jenkins.get().addNode(node)"""
    rig.jenkins.script(groovy)
    try:
        one, named = rig.pipeline("node('rest-one') { echo 'x' }"), rig.pipeline(f"node('{static}') {{ echo 'x' }}")
        rig.queue(one)
        rig.queue(named)
        assert (await rig.item(one)).label == "rest-one"
        item = await rig.item(named)
        assert item.label == static
        assert await rig.connection.fail(item, "connect_timeout", "m", []) is FailOutcome.SPARED
    finally:
        await rig.connection.close()
        rig.jenkins.request("POST", f"computer/{static}/doDelete")


async def test_cells_of_a_matrix_have_their_labels(rig: Rig) -> None:
    job = f"{rig.owner}-matrix"
    rig.owned.jobs.append(job)
    rig.jenkins.script(f"""import hudson.matrix.*
        def job = jenkins.model.Jenkins.get().createProject(MatrixProject, '{job}')
        job.axes = new AxisList(new LabelAxis('label', ['cell-1', 'cell-2']))
        job.save()""")
    rig.jenkins.request("POST", f"job/{job}/build?delay=0sec")
    snapshot = await rig.until(lambda s: s if len(s.items) == 2 else None)
    assert {(i.job, i.label, i.kind) for i in snapshot.items} == {
        (job, "cell-1", ItemKind.FREESTYLE),
        (job, "cell-2", ItemKind.FREESTYLE),
    }


# -- builds


@pytest.mark.parametrize("kind", [ItemKind.FREESTYLE, ItemKind.PIPELINE])
async def test_a_build_runs_on_its_node_within_the_budget_of_requests(rig: Rig, kind: ItemKind) -> None:
    label, shell = f"label-{rig.owner}", "echo on $NODE_NAME; sleep 3"
    free = kind is ItemKind.FREESTYLE
    job = rig.freestyle(label, shell) if free else rig.pipeline(f"node('{label}') {{ sh '{shell}' }}")
    await rig.connection.open()
    rig.queue(job)
    item = await rig.item(job)
    assert item.kind is kind
    order = rig.order(item, label)
    registration = await rig.connection.register(order)
    rig.agents.start(order.name, registration.secret)
    await rig.node(order.name, lambda n: n.online)
    await rig.connection.tell(order.name, item, ["agent connected"])
    node = await rig.node(order.name, lambda n: n.busy)
    assert node.build_url == f"job/{job}/1/"
    assert node.queue_id == (item.key.queue_id if free else None)
    await rig.connection.bar(order.name)
    node = await rig.node(order.name, lambda n: not n.accepting)
    assert (node.online, node.busy, node.started_once, node.finished) == (True, True, True, False)
    tree = f"computer/{order.name}/api/json?tree=description,offlineCauseReason"
    page = await asyncio.to_thread(rig.jenkins.get_json, tree)
    assert "[provisioner] template maven on here" in page["description"]
    reason, *log = page["offlineCauseReason"].splitlines()
    assert reason == BAR_REASON
    assert log == ["[provisioner] template maven on here", "[provisioner] agent connected"]
    fate = await rig.connection.fate(item.key)
    assert (fate.fate, fate.build_url) == (Fate.STARTED, f"job/{job}/1/")
    assert fate.node == (order.name if free else None)
    await rig.node(order.name, lambda n: n.finished)
    await rig.connection.remove(order.name)
    build = await asyncio.to_thread(rig.jenkins.wait_build, job)
    assert build["result"] == "SUCCESS"
    assert f"on {order.name}" in rig.jenkins.console(job)
    await rig.described(job, 2)
    assert rig.description(job).splitlines() == [
        "[provisioner] template maven on here",
        "[provisioner] agent connected",
    ]
    made = rig.connection.requests_made()
    # the poll, and what is done once for each start of the sidecar or of the controller
    shared = ("nodes", "queue", "open", "crumb")
    placeholder = 0 if free else 1  # its node is shared by all Pipelines that wait
    assert sum(n for (op, _), n in made.items() if op not in shared) - placeholder <= 8, made
    assert all(code in ("200", "302") for _, code in made), made


async def test_every_act_may_be_repeated(rig: Rig) -> None:
    order = rig.order(None, f"label-{rig.owner}")
    registration = await rig.connection.register(order)
    assert await rig.connection.register(order) == registration
    for _ in range(3):
        await rig.connection.bar(order.name)
    assert (await rig.node(order.name, lambda _: True)).accepting is False
    await rig.connection.bar(order.name)
    assert (await rig.node(order.name, lambda _: True)).accepting is False
    await rig.connection.remove(order.name)
    await rig.connection.remove(order.name)
    assert order.name not in rig.jenkins.nodes()


async def test_a_barred_agent_that_dies_is_seen_as_lost(rig: Rig) -> None:
    label = f"label-{rig.owner}"
    job = rig.freestyle(label, "sleep 60")
    rig.queue(job)
    order = rig.order(await rig.item(job), label)
    registration = await rig.connection.register(order)
    agent = rig.agents.start(order.name, registration.secret)
    await rig.node(order.name, lambda n: n.busy)
    await rig.connection.bar(order.name)
    await rig.node(order.name, lambda n: n.online and not n.accepting)
    agent.kill()
    node = await rig.node(order.name, lambda n: not n.online)
    assert node.offline_cause
    await rig.connection.tell(order.name, None, ["The agent was lost"])
    await rig.described(job, 2)
    assert rig.description(job).splitlines()[-1] == "[provisioner] The agent was lost"


# -- ends


async def test_a_pipeline_that_cannot_start_ends_with_the_reason_in_its_description(rig: Rig) -> None:
    job = rig.pipeline(f"node('label-{rig.owner}') {{ echo 'x' }}")
    rig.queue(job)
    item = await rig.item(job)
    outcome = await rig.connection.fail(item, "image_not_found", "There is no image nope:1", ["template maven"])
    assert outcome is FailOutcome.CANCELLED
    build = await asyncio.to_thread(rig.jenkins.wait_build, job)
    assert build["result"] in ("ABORTED", "FAILURE")
    assert rig.description(job).splitlines() == [
        "[provisioner] template maven",
        "[provisioner] There is no image nope:1 (image_not_found)",
    ]
    assert await rig.connection.fail(item, "image_not_found", "m", []) is FailOutcome.GONE
    assert (await rig.connection.fate(item.key)).fate is Fate.CANCELLED


async def test_a_freestyle_request_that_cannot_start_is_cancelled(rig: Rig) -> None:
    job = rig.freestyle(f"label-{rig.owner}")
    rig.queue(job)
    item = await rig.item(job)
    assert (await rig.connection.fate(item.key)).fate is Fate.WAITING
    assert await rig.connection.fail(item, "image_not_found", "m", []) is FailOutcome.CANCELLED
    assert (await rig.connection.snapshot()).items == ()


async def test_names_of_strangers_are_left_alone(rig: Rig) -> None:
    name = f"static-{rig.owner}"
    groovy = "jenkins.model.Jenkins.get().addNode(new hudson.slaves.DumbSlave('%s', '/tmp/none', %s))"
    rig.jenkins.script(groovy % (name, "new hudson.slaves.JNLPLauncher(true)"))
    order = rig.order(None)
    try:
        for act in (
            rig.connection.register(NodeOrder(name=name, owner=rig.owner, labels=(), remote_fs="/t", request=None)),
            rig.connection.remove(name),
        ):
            with pytest.raises(ControllerError) as caught:
                await act
            assert caught.value.code == 409
        assert name in rig.jenkins.nodes()
        assert await rig.connection.adopt(order) is False
    finally:
        rig.jenkins.request("POST", f"computer/{name}/doDelete")


# -- refusals


async def test_a_wrong_token_is_told(rig: Rig) -> None:
    connection = rig.connect(rig.jenkins.user, "11ffffffffffffffffffffffffffffffff")
    with pytest.raises(ControllerError, match="does not accept the user admin") as caught:
        await connection.open()
    assert caught.value.code == 401
    assert "11ffff" not in str(caught.value)
    await connection.close()


async def test_a_password_works_too(rig: Rig) -> None:
    connection = rig.connect("admin", "admin")
    assert (await connection.open()).mode is BridgeMode.OFF
    order = rig.order(None, "x")
    await connection.register(order)
    await connection.remove(order.name)
    await connection.close()


async def test_a_missing_permission_is_named(rig: Rig, account: Callable[..., Connection]) -> None:
    connection = account("Jenkins.READ", "Item.READ", "Computer.CONNECT")
    await connection.open()
    assert (await connection.snapshot()).items == ()
    with pytest.raises(ControllerError, match="lacks the permission Agent/Create") as caught:
        await connection.register(rig.order(None, "x"))
    assert caught.value.code == 403
    await connection.close()


async def test_a_plain_account_serves_a_build_and_auto_does_without_the_bridge(
    rig: Rig, account: Callable[..., Connection]
) -> None:
    connection = account(
        "Jenkins.READ", "Item.READ", "Item.CANCEL", "Computer.CREATE", "Computer.CONNECT", "Computer.DELETE",
        "Computer.DISCONNECT", bridge="auto",
    )  # fmt: skip
    rig.connection, admin = connection, rig.connection
    await admin.close()
    assert (await connection.open()).mode is BridgeMode.OFF
    label = f"label-{rig.owner}"
    job = rig.freestyle(label, "sleep 2")
    rig.queue(job)
    order = rig.order(await rig.item(job), label)
    registration = await connection.register(order)
    rig.agents.start(order.name, registration.secret)
    await rig.node(order.name, lambda n: n.busy)
    await connection.bar(order.name)
    await rig.node(order.name, lambda n: n.finished)
    await connection.remove(order.name)
    assert (await asyncio.to_thread(rig.jenkins.wait_build, job))["result"] == "SUCCESS"
    async with asyncio.timeout(20):  # what is said is gathered for a while
        while ("describe", "403") not in connection.requests_made():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    assert rig.description(job) == ""  # for want of Run/Update


async def test_a_url_that_is_no_jenkins_is_told(rig: Rig) -> None:
    http = Rest(name="main", url=rig.jenkins.url + "userContent/", user=rig.jenkins.user, token=rig.jenkins.token)
    connection = Connection(http, owner=rig.owner, bridge="off", poll_interval_s=1)
    with pytest.raises(ControllerError, match="userContent/"):
        await connection.open()
    await connection.close()


# -- restarts


async def test_the_watch_survives_a_restart_and_items_keep_their_keys(rig: Rig) -> None:
    free, pipe = rig.freestyle("rest-f"), rig.pipeline("node('rest-p') { echo 'x' }")
    rig.queue(free)
    rig.queue(pipe)
    connection = rig.connect(rig.jenkins.user, rig.jenkins.token, bridge="auto")
    try:
        async with asyncio.timeout(150), aclosing(connection.watch()) as watching:  # type: ignore[type-var]
            before = await _both(watching)
            assert before.info.mode is BridgeMode.SCRIPT
            restart = asyncio.create_task(asyncio.to_thread(rig.jenkins.restart))
            lost, after = False, before
            async for seen in watching:
                lost = lost or isinstance(seen, Unreachable)
                if isinstance(seen, Snapshot) and seen.info.session != before.info.session and len(seen.items) >= 2:
                    after = seen
                    break
            await restart
        assert lost
        assert after is not before
        assert after.info.mode is BridgeMode.SCRIPT
        assert {i.key for i in after.items} == {i.key for i in before.items}
        assert {i.label for i in after.items} == {"rest-f", "rest-p"}
    finally:
        await connection.close()


async def _both(watching: AsyncIterator[Any]) -> Snapshot:
    items: dict[Any, QueueItem] = {}
    async for seen in watching:
        if isinstance(seen, Snapshot):
            info, items = seen.info, {i.key: i for i in seen.items}
        elif hasattr(seen, "item"):
            items[seen.item.key] = seen.item
        if len(items) == 2:
            return Snapshot(info=info, items=tuple(items.values()), nodes=())
    raise AssertionError("the watch ended")
