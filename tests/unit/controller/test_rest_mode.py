"""A controller without the bridge: what a poll sees, and what the acts leave behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from provisioner.controller.labels import LINGER_S
from provisioner.controller.port import FailOutcome, Fate, NodeOrder
from provisioner.controller.rest import Rest
from provisioner.controller.rest_mode import RestMode
from provisioner.controller.rest_views import BAR_REASON, RawNode, mark
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, NodeView, QueueItem, RequestKey
from tests.unit.controller.scripted_controller import JENKINS, Script
from tests.unit.controller.small_jenkins import SmallJenkins


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def gather_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.controller.descriptions._GATHER_S", 0.0)


@pytest.fixture
def jenkins(controller: Script) -> SmallJenkins:
    return SmallJenkins(controller)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool() -> Iterator[DaemonPool]:
    made = DaemonPool(4, "test-rest")
    yield made
    made.shutdown()


@pytest.fixture
async def mode(rest: Rest, pool: DaemonPool, clock: Clock, jenkins: SmallJenkins) -> AsyncIterator[RestMode]:
    made = RestMode(rest, pool, owner="prod", parameters=["IMAGE"], monotonic=clock)
    yield made
    await made.close()


def order(name: str = "maven-x", item: QueueItem | None = None, **changes: object) -> NodeOrder:
    fields: dict[str, object] = {
        "name": name, "owner": "prod", "labels": ("maven", "linux"), "remote_fs": "/home/j", "request": item,
        "lines": ("template maven", "provider big-box"), **changes,
    }  # fmt: skip
    return NodeOrder(**fields)  # type: ignore[arg-type]


async def the_item(mode: RestMode) -> QueueItem:
    (item,) = (await mode.snapshot()).items
    return item


async def the_node(mode: RestMode) -> NodeView:
    (node,) = (await mode.snapshot()).nodes
    return node


def ours(jenkins: SmallJenkins) -> list[str]:
    return [n for n, v in jenkins.nodes.items() if "jenkins-provisioner." in v["description"]]


# -- the poll


async def test_a_poll_is_two_requests_nodes_first(mode: RestMode, jenkins: SmallJenkins, controller: Script) -> None:
    jenkins.freestyle(7, "maven")
    item = await the_item(mode)
    assert controller.paths() == ["/computer/api/json", "/queue/api/json"]
    assert item.key == RequestKey(controller="main", queue_id=7, since_ms=1007, task="job/f/")
    assert (item.kind, item.job, item.label, item.buildable_ms) == (ItemKind.FREESTYLE, "f", "maven", 2007)


async def test_what_is_no_jenkins_is_refused_at_the_start(mode: RestMode, controller: Script) -> None:
    controller.answers["GET", "/api/json"] = []
    controller.on("GET", "/api/json", 200, {"hello": "world"}, {})
    with pytest.raises(ControllerError, match="not a Jenkins"):
        await mode.open()


async def test_an_answer_of_another_form_is_an_error_and_no_empty_queue(mode: RestMode, controller: Script) -> None:
    controller.answers["GET", "/queue/api/json"] = []
    controller.on("GET", "/queue/api/json", 200, {"_class": "hudson.model.Queue"})
    with pytest.raises(ControllerError, match="form that is not known"):
        await mode.snapshot()


async def test_a_shutdown_in_preparation_is_seen_and_its_end_too(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    controller.answers["GET", "/queue/api/json"] = []
    quiet = {"id": 1, "inQueueSince": 1, "buildable": True, "why": "Jenkins is about to shut down", "task": {}}
    controller.on("GET", "/queue/api/json", 200, {"items": [quiet]})
    controller.on("GET", "/queue/api/json", 200, {"items": []})
    assert (await mode.snapshot()).info.quieting_down is True
    assert (await mode.snapshot()).info.quieting_down is False
    assert controller.paths()[-1] == "/api/json"


async def test_parameters_of_a_pipeline_are_asked_for_once(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    jenkins.node("static")
    jenkins.pipeline(3, "maven")
    controller.answers["GET", "/job/p/3/api/json"] = []
    values = [{"name": "IMAGE", "value": "maven:3.9"}, {"name": "OTHER", "value": "x"}]
    controller.on("GET", "/job/p/3/api/json", 200, {"actions": [{}, {"parameters": values}]})
    for _ in range(3):
        assert (await the_item(mode)).parameters == {"IMAGE": "maven:3.9"}
    assert controller.paths().count("/job/p/3/api/json") == 1


# -- labels of Pipelines


async def test_the_label_of_a_pipeline_is_found_although_the_controller_has_no_node(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.pipeline(3, "maven")
    item = await the_item(mode)
    assert (item.kind, item.label, item.build_url) == (ItemKind.PIPELINE, "maven", "job/p/3/")
    (helper,) = jenkins.nodes
    assert helper.startswith("prod-placeholder-")


async def test_a_pipeline_for_any_node_needs_no_helper_node(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.pipeline(3, None)
    assert (await the_item(mode)).label is None
    assert jenkins.nodes == {}


async def test_the_label_is_found_where_why_names_a_strangers_only_node(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.node("static", "maven linux", online=True)
    jenkins.pipeline(3, "maven")
    assert (await the_item(mode)).label == "maven"


async def test_a_strangers_own_name_as_label_is_told_as_such(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.node("static", "maven linux", online=True)
    jenkins.pipeline(3, "static")
    assert (await the_item(mode)).label == "static"


async def test_a_label_stays_known_when_our_own_node_takes_its_place_in_why(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.node("static")
    jenkins.pipeline(3, "maven")
    item = await the_item(mode)
    await mode.register(order(item=item))
    assert (await the_item(mode)).label == "maven"


async def test_a_restarted_sidecar_reads_the_label_from_its_forerunners_node(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.node("maven-x", "maven linux", mark("prod", "maven-x", "maven&&linux"))
    jenkins.pipeline(3, "maven")
    assert (await the_item(mode)).label == "maven&&linux"
    assert list(jenkins.nodes) == ["maven-x"]


async def test_a_jobs_label_that_was_edited_is_seen_although_why_names_a_node_instead(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.node("static", "gradle", online=True)
    jenkins.freestyle(3, "maven")
    assert (await the_item(mode)).label == "maven"
    jenkins.freestyle(3, "gradle")
    assert (await the_item(mode)).label == "gradle"


async def test_a_label_that_one_build_alone_asks_for_stays_known_beside_its_jobs_own(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.node("static")
    jenkins.freestyle(3, "maven")
    jenkins.waiting[3]["task"]["labelExpression"] = "static"  # a parameter of the build names the label
    item = await the_item(mode)
    assert item.label == "maven"
    await mode.register(order(item=item))
    assert (await the_item(mode)).label == "maven"


async def test_a_node_that_was_made_between_the_two_requests_is_no_label(
    mode: RestMode, jenkins: SmallJenkins, monkeypatch: pytest.MonkeyPatch
) -> None:
    jenkins.node("static")
    jenkins.pipeline(3, "maven")
    item = await the_item(mode)
    before = await mode._read_nodes()
    await mode.register(order(item=item))
    jenkins.nodes["maven-x"]["offline"] = False
    jenkins.pipeline(4, "maven")

    async def listed_before() -> list[RawNode]:
        return before

    with monkeypatch.context() as late:
        late.setattr(mode, "_read_nodes", listed_before)
        assert [(i.key.queue_id, i.label) for i in (await mode.snapshot()).items] == [(3, "maven")]
    assert {i.key.queue_id: i.label for i in (await mode.snapshot()).items} == {3: "maven", 4: "maven"}


async def test_helper_nodes_are_no_agents_and_go_when_no_pipeline_waits(
    mode: RestMode, jenkins: SmallJenkins, clock: Clock
) -> None:
    jenkins.pipeline(3, "maven")
    assert (await mode.snapshot()).nodes == ()
    jenkins.waiting.clear()
    await mode.snapshot()
    assert len(jenkins.nodes) == 1
    clock.now_s += LINGER_S
    await mode.snapshot()
    assert jenkins.nodes == {}


async def test_helper_nodes_of_a_killed_forerunner_go_too(mode: RestMode, jenkins: SmallJenkins, clock: Clock) -> None:
    jenkins.node("prod-placeholder-1", "", "jenkins-provisioner.owner=prod jenkins-provisioner.placeholder=-")
    jenkins.node("qa-placeholder-1", "", "jenkins-provisioner.owner=qa jenkins-provisioner.placeholder=-")
    await mode.snapshot()
    clock.now_s += LINGER_S
    await mode.snapshot()
    assert list(jenkins.nodes) == ["qa-placeholder-1"]


async def test_helper_nodes_go_at_the_end(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.pipeline(3, "maven")
    await mode.snapshot()
    await mode.close()
    assert jenkins.nodes == {}


async def test_without_the_permission_for_helper_nodes_the_item_is_left_out_and_asked_once(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    controller.answers["POST", "/computer/doCreateItem"] = []
    controller.on("POST", "/computer/doCreateItem", 403, b"ci is missing the Agent/Create permission")
    jenkins.pipeline(3, "maven")
    jenkins.freestyle(4, "maven")
    for _ in range(2):
        assert [i.key.queue_id for i in (await mode.snapshot()).items] == [4]
    assert controller.paths("POST") == ["/computer/doCreateItem"]


# -- nodes


async def test_registering_is_two_requests(mode: RestMode, jenkins: SmallJenkins, controller: Script) -> None:
    registration = await mode.register(order())
    assert registration.secret == "ab" * 32
    assert "abab" not in repr(registration)
    assert controller.paths()[-2:] == ["/computer/doCreateItem", "/computer/maven-x/jenkins-agent.jnlp"]
    (form,) = jenkins.created_forms
    assert form["labelString"] == "maven linux"
    assert form["mode"] == "EXCLUSIVE"
    assert form["numExecutors"] == "1"
    assert form["launcher"]["webSocket"] is True
    assert form["nodeDescription"].splitlines() == [
        "jenkins-provisioner.owner=prod jenkins-provisioner.agent=maven-x",
        "[provisioner] template maven",
        "[provisioner] provider big-box",
    ]


async def test_registering_again_finds_the_node(mode: RestMode, jenkins: SmallJenkins) -> None:
    first = await mode.register(order())
    assert await mode.register(order()) == first
    assert len(jenkins.created_forms) == 1


async def test_a_strangers_node_is_not_taken(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.node("maven-x", "maven", "built by hand")
    with pytest.raises(ControllerError, match="not ours") as caught:
        await mode.register(order())
    assert caught.value.code == 409


async def test_a_strangers_node_is_not_removed(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.node("maven-x", "maven", "built by hand")
    with pytest.raises(ControllerError, match="left alone") as caught:
        await mode.remove("maven-x")
    assert caught.value.code == 409
    assert list(jenkins.nodes) == ["maven-x"]


async def test_removing_is_one_request_and_gone_is_done(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    await mode.register(order())
    before = len(controller.asked)
    await mode.remove("maven-x")
    assert len(controller.asked) == before + 1
    await mode.remove("maven-x")
    assert jenkins.nodes == {}


async def test_a_node_that_somebody_else_deleted_is_removed(mode: RestMode, jenkins: SmallJenkins) -> None:
    await mode.register(order())
    jenkins.nodes.clear()
    await mode.remove("maven-x")


async def test_barring_twice_bars(mode: RestMode, jenkins: SmallJenkins, controller: Script) -> None:
    await mode.register(order())
    mode.tell("maven-x", ["connected : after 1 s"])
    jenkins.nodes["maven-x"]["offline"] = False
    await mode.snapshot()
    before = len(controller.asked)
    await mode.bar("maven-x")
    assert len(controller.asked) == before + 1
    await mode.bar("maven-x")
    assert jenkins.nodes["maven-x"]["barred"] is True
    node = await the_node(mode)
    assert (node.online, node.accepting) == (True, False)
    assert jenkins.nodes["maven-x"]["cause"].splitlines() == [
        BAR_REASON,
        "[provisioner] template maven",
        "[provisioner] provider big-box",
        "[provisioner] connected: after 1 s",
    ]
    await mode.bar("maven-x")
    assert jenkins.nodes["maven-x"]["barred"] is True


async def test_labels_that_jenkins_would_split_are_quoted(mode: RestMode, jenkins: SmallJenkins) -> None:
    await mode.register(order(labels=("image=maven:3.9", "two words", 'a"b')))
    assert jenkins.created_forms[0]["labelString"] == 'image=maven:3.9 "two words" "a\\"b"'


async def test_adopting_tells_whether_the_node_is_there(mode: RestMode, jenkins: SmallJenkins) -> None:
    assert await mode.adopt(order()) is False
    await mode.register(order())
    assert await mode.adopt(order()) is True


# -- builds


async def test_a_build_on_our_node_is_seen_from_start_to_end(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.freestyle(7, "maven")
    await mode.register(order(item=await the_item(mode)))
    assert (await the_node(mode)).started_once is False
    jenkins.start(7, "maven-x")
    node = await the_node(mode)
    assert (node.busy, node.started_once, node.finished, node.queue_id) == (True, True, False, 7)
    assert node.build_url == "job/f/7/"
    jenkins.nodes["maven-x"]["running"] = None
    node = await the_node(mode)
    assert (node.busy, node.started_once, node.finished) == (False, True, True)


async def test_a_node_between_taking_an_item_and_making_its_build_is_looked_at_again(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    jenkins.freestyle(7, "maven")
    await mode.register(order(item=await the_item(mode)))
    there = controller.answers["GET", "/computer/api/json"].pop()
    taken = {
        "displayName": "maven-x", "description": mark("prod", "maven-x"), "offline": False, "idle": False,
        "executors": [{"currentExecutable": None}],
    }  # fmt: skip
    controller.on("GET", "/computer/api/json", 200, {"computer": [taken]})
    controller.call("GET", "/computer/api/json", there)
    jenkins.start(7, "maven-x")
    node = await the_node(mode)
    assert (node.queue_id, node.build_url) == (7, "job/f/7/")


async def test_after_a_restart_of_the_controller_an_idle_node_is_not_finished(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    jenkins.freestyle(7, "maven")
    await mode.register(order(item=await the_item(mode)))
    jenkins.start(7, "maven-x")
    await mode.snapshot()
    jenkins.nodes["maven-x"]["running"] = None
    controller.answers["GET", "/queue/api/json"] = []
    headers = {**JENKINS, "X-Jenkins-Session": "bbbb2222"}
    controller.on("GET", "/queue/api/json", 200, {"items": []}, headers)
    # until its build is known to have ended, between two looks
    build = ("GET", "/job/f/7/api/json")
    controller.answers[build] = []
    controller.on(*build, 200, {"building": True}, headers)
    controller.on(*build, 404, b"", headers)
    controller.on(*build, 200, {"building": False}, headers)
    snapshot = await mode.snapshot()
    assert snapshot.info.session == "bbbb2222"
    assert (snapshot.nodes[0].started_once, snapshot.nodes[0].finished) == (False, False)
    ends = [(await mode.snapshot()).nodes[0].finished for _ in range(3)]
    assert ends == [False, True, True]


async def test_a_closed_node_is_opened_for_the_pipeline_that_comes_back_to_it_and_closed_again(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.pipeline(4, "maven")
    jenkins.node("static", "other", online=True)
    await mode.register(order(item=await the_item(mode)))
    jenkins.nodes["maven-x"]["offline"] = False
    jenkins.start(4, "maven-x")
    await the_node(mode)
    await mode.bar("maven-x")
    # the controller was restarted: the body waits for its own agent by name
    jenkins.nodes["maven-x"]["running"] = None
    jenkins.pipeline(5, "maven-x")
    assert (await the_item(mode)).label == "maven-x"  # and not "maven", which a new agent would be made for
    assert jenkins.nodes["maven-x"]["barred"] is True  # who waits for it by name may be anybody
    for _ in range(2):
        await mode.let_return("maven-x")
    await the_node(mode)
    assert jenkins.nodes["maven-x"]["barred"] is False
    jenkins.start(5, "maven-x")
    assert (await the_node(mode)).busy
    assert jenkins.nodes["maven-x"]["barred"] is True
    await the_node(mode)
    assert jenkins.nodes["maven-x"]["barred"] is True


async def test_the_launch_log_is_shown_in_the_builds_description(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.freestyle(7, "maven")
    expected = order(item=await the_item(mode))
    for _ in range(2):  # the answer of the first may have been lost
        await mode.register(expected)
    mode.tell("maven-x", ["agent connected after 0.9 s"])
    url = jenkins.start(7, "maven-x")
    await mode.snapshot()
    await mode.settle()
    assert jenkins.builds[url].splitlines() == [
        "[provisioner] template maven",
        "[provisioner] provider big-box",
        "[provisioner] agent connected after 0.9 s",
    ]


async def test_a_build_too_short_for_the_poll_gets_its_launch_log_when_its_fate_is_asked(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.freestyle(7, "maven")
    item = await the_item(mode)
    await mode.register(order(item=item))
    url = jenkins.start(7, "maven-x")
    fate = await mode.fate(item.key)
    await mode.settle()
    assert (fate.fate, fate.build_url, fate.building, fate.node) == (Fate.STARTED, url, True, "maven-x")
    assert "[provisioner] template maven" in jenkins.builds[url]


async def test_somebodys_own_description_is_left_alone(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.freestyle(7, "maven")
    await mode.register(order(item=await the_item(mode)))
    url = jenkins.start(7, "maven-x")
    jenkins.builds[url] = jenkins.nodes["maven-x"]["running"]["description"] = "release 1.2"
    await mode.snapshot()
    await mode.settle()
    assert jenkins.builds[url] == "release 1.2"


async def test_what_is_said_after_the_build_has_begun_is_added_also_to_somebodys_own_words(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.freestyle(7, "maven")
    await mode.register(order(item=await the_item(mode)))
    url = jenkins.start(7, "maven-x")
    await mode.snapshot()
    mode.tell("maven-x", ["agent connected"])  # seen with the build, told a moment later: no request of its own
    await mode.settle()
    assert jenkins.builds[url].splitlines()[-1] == "[provisioner] agent connected"
    jenkins.builds[url] = "release 1.2"
    mode.tell("maven-x", ["the agent was lost"])
    mode.tell("maven-x", ["out of memory"])
    await mode.remove("maven-x")
    await mode.settle()
    assert jenkins.builds[url].splitlines() == [
        "release 1.2",
        "[provisioner] the agent was lost",
        "[provisioner] out of memory",
    ]


async def test_a_later_life_of_the_sidecar_adds_what_it_has_to_say(
    mode: RestMode, rest: Rest, pool: DaemonPool, jenkins: SmallJenkins
) -> None:
    jenkins.freestyle(7, "maven")
    await mode.register(order(item=await the_item(mode)))
    url = jenkins.start(7, "maven-x")
    await mode.snapshot()
    await mode.settle()
    shown = jenkins.builds[url]
    later = RestMode(rest, pool, owner="prod")
    await later.snapshot()
    await later.settle()
    assert jenkins.builds[url] == shown
    later.tell("maven-x", ["the agent was lost"])
    await later.settle()
    assert jenkins.builds[url] == f"{shown}\n[provisioner] the agent was lost"


async def test_what_is_gathered_is_shown_before_the_end(
    mode: RestMode, jenkins: SmallJenkins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.controller.descriptions._GATHER_S", 60.0)
    jenkins.freestyle(7, "maven")
    await mode.register(order(item=await the_item(mode)))
    url = jenkins.start(7, "maven-x")
    await mode.snapshot()
    await mode.close()
    assert "[provisioner] template maven" in jenkins.builds[url]


async def test_without_run_update_nothing_is_shown_and_nothing_fails(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    for number, job in ((7, "f"), (8, "f"), (9, "another")):
        jenkins.freestyle(number, "maven", job=job)
    for item in (await mode.snapshot()).items:
        name = f"maven-{item.key.queue_id}"
        await mode.register(order(name, item))
        url = jenkins.start(item.key.queue_id, name)
        if item.job == "f":
            controller.answers["POST", f"/{url}submitDescription"] = []
            controller.on("POST", f"/{url}submitDescription", 403, b"ci is missing the Run/Update permission")
        await mode.snapshot()
        await mode.settle()
    assert sum("job/f/" in path and "submitDescription" in path for path in controller.paths("POST")) == 1
    assert "[provisioner] template maven" in jenkins.builds["job/another/9/"]  # it may be allowed there


# -- ends


async def test_failing_a_pipeline_cancels_it_with_the_reason_in_its_description(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.node("static")
    jenkins.pipeline(3, "maven")
    jenkins.script.on("GET", "/label/maven/api/json", 200, {"nodes": [], "clouds": []})
    item = await the_item(mode)
    jenkins.builds["job/p/3/"] = "nightly"
    outcome = await mode.fail(item, "image_not_found", "no image nope:1", ["template maven"])
    assert outcome is FailOutcome.CANCELLED
    assert jenkins.builds["job/p/3/"].splitlines() == [
        "nightly",
        "[provisioner] template maven",
        "[provisioner] no image nope:1 (image_not_found)",
    ]
    assert await mode.fail(item, "image_not_found", "no image nope:1", []) is FailOutcome.GONE
    assert (await mode.fate(item.key)).fate is Fate.CANCELLED


async def test_a_request_that_a_static_node_could_serve_is_spared(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.node("static", "maven")
    jenkins.freestyle(7, "maven")
    jenkins.script.on("GET", "/label/maven/api/json", 200, {"nodes": [{"nodeName": "static"}], "clouds": []})
    item = await the_item(mode)
    assert await mode.fail(item, "connect_timeout", "m", []) is FailOutcome.SPARED
    assert 7 in jenkins.waiting


async def test_a_node_of_ours_that_is_still_listed_while_it_goes_spares_no_request(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.node("static")
    jenkins.freestyle(7, "maven")
    item = await the_item(mode)
    await mode.remove("one-gone")
    jenkins.node("one-gone", "maven")  # no description any more, and so no mark
    jenkins.script.on("GET", "/label/maven/api/json", 200, {"nodes": [{"nodeName": "one-gone"}], "clouds": []})
    assert await mode.fail(item, "connect_timeout", "m", []) is FailOutcome.CANCELLED


async def test_a_request_that_another_cloud_could_serve_is_spared(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.freestyle(7, "maven")
    jenkins.script.on("GET", "/label/maven/api/json", 200, {"nodes": [], "clouds": [{}]})
    assert await mode.fail(await the_item(mode), "connect_timeout", "m", []) is FailOutcome.SPARED


async def test_a_node_of_ours_spares_nobody(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.freestyle(7, "maven")
    item = await the_item(mode)
    await mode.register(order(item=item))
    jenkins.script.on("GET", "/label/maven/api/json", 200, {"nodes": [{"nodeName": "maven-x"}], "clouds": []})
    assert await mode.fail(item, "connect_timeout", "m", []) is FailOutcome.CANCELLED


async def test_another_item_under_the_same_number_is_neither_asked_for_nor_ended(
    mode: RestMode, jenkins: SmallJenkins
) -> None:
    jenkins.freestyle(7, "maven")
    item = await the_item(mode)
    jenkins.waiting[7]["inQueueSince"] += 1
    assert (await mode.fate(item.key)).fate is Fate.UNKNOWN
    assert await mode.fail(item, "connect_timeout", "m", []) is FailOutcome.GONE
    assert 7 in jenkins.waiting


async def test_the_fate_of_a_waiting_and_of_a_forgotten_item(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.freestyle(7, "maven")
    key = (await the_item(mode)).key
    assert (await mode.fate(key)).fate is Fate.WAITING
    jenkins.waiting.clear()
    assert (await mode.fate(key)).fate is Fate.UNKNOWN
