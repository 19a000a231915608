"""Agents that the controller dials, without the bridge: entry and launcher, made once, found half made, removed."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from provisioner.controller.port import Dial, Launcher, NodeOrder
from provisioner.controller.rest import Rest
from provisioner.controller.rest_mode import RestMode
from provisioner.controller.rest_views import mark
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError
from tests.unit.controller.scripted_controller import JENKINS, Script
from tests.unit.controller.small_jenkins import HTML, STORE, SmallJenkins

ORDER = NodeOrder(
    name="maven-x",
    owner="prod",
    labels=("maven",),
    remote_fs="/home/j",
    request=None,
    launcher=Launcher.SSH,
    lines=("template maven",),
)
DIAL = Dial(
    host="10.0.0.7",
    port=22022,
    host_key="ssh-ed25519 AAAA",
    user="jenkins",
    private_key="-----BEGIN <KEY>",
    java="/opt/java",
    java_options=("-Xa", "-Xb"),
)
ENTRY = "jenkins-provisioner.prod.maven-x"


@pytest.fixture
def jenkins(controller: Script) -> SmallJenkins:
    return SmallJenkins(controller)


@pytest.fixture
def mode(rest: Rest, jenkins: SmallJenkins) -> Iterator[RestMode]:
    pool = DaemonPool(4, "test-rest")
    yield RestMode(rest, pool, owner="prod")
    pool.shutdown()


async def test_entry_first_then_the_node_anew_with_a_launcher_that_pins_the_key(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    await mode.register(ORDER)
    assert not jenkins.nodes["maven-x"]["dials"]
    before = jenkins.nodes["maven-x"]["description"]
    begin = len(controller.asked)
    await mode.dialling.dial(ORDER, DIAL)
    made = [asked.path for asked in controller.asked[begin:] if asked.method == "POST" and "crumb" not in asked.path]
    assert made == [f"{STORE}/createCredentials", "/computer/maven-x/doDelete", "/computer/doCreateItem"]
    entry = ET.fromstring(jenkins.entries[ENTRY])
    assert [entry.findtext(tag) for tag in ("scope", "description", "username", "privateKeySource/privateKey")] == [
        "SYSTEM",
        mark("prod", "maven-x"),
        "jenkins",
        "-----BEGIN <KEY>",
    ]
    launcher = jenkins.created_forms[-1]["launcher"]
    assert launcher["host"] == "10.0.0.7"
    assert launcher["credentialsId"] == ENTRY
    assert launcher["javaPath"] == "/opt/java"
    assert launcher["jvmOptions"] == "-Xa -Xb"
    pinned = launcher["sshHostKeyVerificationStrategy"]
    assert pinned["$class"].endswith("ManuallyProvidedKeyVerificationStrategy")
    assert pinned["key"] == "ssh-ed25519 AAAA"
    assert jenkins.nodes["maven-x"]["description"] == before
    assert jenkins.created_forms[-1]["labelString"] == "maven"


async def test_a_node_that_is_dialled_already_is_left_as_it_is(mode: RestMode, jenkins: SmallJenkins) -> None:
    await mode.register(ORDER)
    await mode.dialling.dial(ORDER, DIAL)
    forms = len(jenkins.created_forms)
    await mode.dialling.dial(ORDER, DIAL)
    assert len(jenkins.created_forms) == forms


@pytest.mark.parametrize("left", ["entry", "no node", "entry of another key"])
async def test_what_an_earlier_call_left_is_finished(mode: RestMode, jenkins: SmallJenkins, left: str) -> None:
    await mode.register(ORDER)
    await mode.dialling.dial(ORDER, DIAL)
    text = jenkins.entries[ENTRY]
    await mode.remove("maven-x")
    if left != "no node":
        await mode.register(ORDER)
        jenkins.entry(ENTRY, text if left == "entry" else text.replace("BEGIN", "OLD"))
    await mode.dialling.dial(ORDER, DIAL)
    assert jenkins.nodes["maven-x"]["dials"]
    assert "BEGIN" in jenkins.entries[ENTRY]
    assert len(jenkins.entries) == 1


async def test_strangers_of_the_name_are_left_alone(mode: RestMode, jenkins: SmallJenkins) -> None:
    jenkins.node("maven-x", description="a person's")
    with pytest.raises(ControllerError, match="not ours") as caught:
        await mode.dialling.dial(ORDER, DIAL)
    assert caught.value.code == 409
    assert jenkins.entries == {}
    jenkins.entry(ENTRY, "<x><id>i</id><description>a person's</description></x>")
    for work in (mode.dialling.remove_credentials("maven-x"), mode.dialling.remove_credentials("maven-x")):
        with pytest.raises(ControllerError, match="not ours"):
            await work
    assert ENTRY in jenkins.entries
    assert await mode.dialling.credentials() == ()


async def test_entries_are_listed_by_their_mark_and_removed_once(mode: RestMode, jenkins: SmallJenkins) -> None:
    await mode.register(ORDER)
    await mode.dialling.dial(ORDER, DIAL)
    text = jenkins.entries[ENTRY]
    jenkins.entry("other", text)  # the mark, but not the id: somebody's copy
    jenkins.entry("jenkins-provisioner.prod-b.y", text.replace("owner=prod ", "owner=prod-b "))
    assert await mode.dialling.credentials() == ("maven-x",)
    await mode.dialling.remove_credentials("maven-x")
    await mode.dialling.remove_credentials("maven-x")
    assert await mode.dialling.credentials() == ()
    assert set(jenkins.entries) == {"other", "jenkins-provisioner.prod-b.y"}


async def test_a_controller_without_the_plugins_says_what_to_install(
    mode: RestMode, jenkins: SmallJenkins, controller: Script
) -> None:
    await mode.register(ORDER)
    for key in (("POST", f"{STORE}/createCredentials"), ("GET", f"{STORE}/api/json")):
        controller.answers[key] = [lambda _a: (404, JENKINS, HTML)]
    with pytest.raises(ControllerError, match="ssh-slaves and ssh-credentials") as caught:
        await mode.dialling.dial(ORDER, DIAL)
    assert caught.value.code == 412
    assert not caught.value.retryable
    assert await mode.dialling.credentials() == ()
    assert "maven-x" in jenkins.nodes
