"""Secrets of a template on their way from the sidecar's disk to an instance, and whose workspace an agent gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.backends.contract import SecretFile
from provisioner.config import Template
from provisioner.lifecycle.orders import instance_order, workspace_of
from provisioner.lifecycle.secret_files import MOST_BYTES, secret_files
from provisioner.model.agent import Agent, AgentState, Target
from provisioner.model.errors import LaunchError, Reason
from provisioner.model.queue import ItemKind, RequestKey
from tests.unit.lifecycle.conftest import House

HUSH = "hush-hush-4711"


def stored(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.glob("state.db*")]


def template(**keys: object) -> Template:
    return Template.from_spec({"name": "t", "labels": ["t"], "providers": ["box"], "image": "i", **keys})


def agent(made: Template, task: str = "job/team/job/app/", kind: ItemKind = ItemKind.FREESTYLE) -> Agent:
    return Agent(
        name="t-1",
        owner="me",
        controller="main",
        template="t",
        provider="box",
        request=RequestKey(controller="main", queue_id=1, since_ms=1, task=task),
        kind=kind,
        state=AgentState.STARTING,
        target=Target.SERVE,
        created_at=datetime.now(UTC),
        spec=made.spec(),
    )


def test_each_file_is_read_with_its_place_and_its_variable(tmp_path: Path) -> None:
    (tmp_path / "settings.xml").write_bytes(b"<a/>\n")
    (tmp_path / "a b").write_bytes(b"\xff\x00")
    made = template(
        secrets=[
            {"file": str(tmp_path / "settings.xml"), "at": "/home/jenkins/.m2/settings.xml"},
            {"file": str(tmp_path / "a b"), "env": "TOKEN_FILE"},
        ]
    )
    assert secret_files(made) == (
        SecretFile(name="0-settings.xml", content=b"<a/>\n", at="/home/jenkins/.m2/settings.xml"),
        SecretFile(name="1-a_b", content=b"\xff\x00", env="TOKEN_FILE"),
    )


@pytest.mark.parametrize("what", ["missing", "a folder", "too large"])
def test_a_file_that_cannot_be_had_is_named_and_ends_the_build(tmp_path: Path, what: str) -> None:
    file = tmp_path / "secret"
    if what == "a folder":
        file.mkdir()
    elif what == "too large":
        file.write_bytes(b"x" * (MOST_BYTES + 1))
    with pytest.raises(LaunchError, match=str(file)) as caught:
        secret_files(template(secrets=[{"file": str(file), "env": "X"}]))
    assert caught.value.reason is Reason.TEMPLATE_INVALID


async def test_the_content_reaches_the_instance_and_no_record(make_house: Callable[..., House], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(HUSH)
    house = make_house(secrets=[{"file": str(file), "at": "/x"}])
    house.controller.queue()
    name = await house.agent()
    order = house.backend.instances[name].order
    assert [(f.name, f.at) for f in order.files] == [("secret", None), ("0-secret", "/x")]
    assert order.files[1].content == HUSH.encode()
    assert HUSH not in repr(order)
    assert HUSH.encode() not in b"".join(stored(tmp_path))
    assert HUSH not in json.dumps([text for _, _, text in house.store.lines(name)])


@pytest.mark.parametrize(
    ("task", "kind", "whose"),
    [
        ("job/team/job/app/", ItemKind.FREESTYLE, "main/job/team/job/app"),
        ("job/app/12/", ItemKind.PIPELINE, "main/job/app"),
        ("job/12/", ItemKind.FREESTYLE, "main/job/12"),
        ("job/m/AXIS=a/", ItemKind.FREESTYLE, "main/job/m/AXIS=a"),
    ],
)
def test_a_workspace_is_the_jobs(task: str, kind: ItemKind, whose: str) -> None:
    assert workspace_of(agent(template(), task, kind)) == whose


def test_only_a_template_that_wants_one_keeps_a_workspace() -> None:
    for volumes, whose in (([], ""), ([{"workspace": "per-job"}], "main/job/team/job/app")):
        made = template(volumes=volumes)
        one = agent(made)
        order = instance_order(one, made, backend="docker", agent_url="http://c/", secret="s", agent_jar=b"")
        assert order.workspace_of == whose
    assert workspace_of(replace(one, request=None)) == ""
