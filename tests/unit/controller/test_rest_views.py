# ruff: noqa: RUF001  (Jenkins prints curly quotes)
"""What the JSON of a controller's queue and nodes means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.controller.rest_views import (
    BAR_REASON,
    Says,
    Why,
    job_of,
    mark,
    marked_for,
    read_items,
    read_nodes,
    read_parameters,
    read_why,
    relative,
)
from provisioner.model.queue import ItemKind
from tests.unit.controller.scripted_controller import recorded


def why(text: str | None, *, stuck: bool = True, nodes: tuple[str, ...] = ("n1",), others: bool = True) -> Why:
    return read_why(text, stuck=stuck, nodes=nodes, others=others)


@pytest.mark.parametrize(
    ("text", "says", "name"),
    [
        ("There are no nodes with the label ‘maven’", Says.LABEL, "maven"),
        ("There are no nodes with the label ‘\"image=maven:3.9\"’", Says.LABEL, '"image=maven:3.9"'),
        ("There are no nodes with the label ‘image=maven:3.9’", Says.LABEL, "image=maven:3.9"),
        ("All nodes of label ‘a&&(b||!c)’ are offline", Says.LABEL, "a&&(b||!c)"),
        ("Waiting for next available executor on ‘maven’", Says.LABEL, "maven"),
        ("Waiting for next available executor on ‘n1’", Says.NODE, "n1"),
        ("‘n1’ is offline", Says.NODE, "n1"),
        ("‘n1’ doesn’t have label ‘x’", Says.LABEL, "x"),
        ("‘n1’ doesn’t have label ‘x’; ‘n2’ doesn’t have label ‘x’", Says.LABEL, "x"),
        ("‘n1’ is reserved for jobs with matching label expression", Says.NOTHING, None),
        ("Waiting for next available executor", Says.ANY, None),
        ("Jenkins is about to shut down", Says.SHUTDOWN, None),
        ("In the quiet period. Expires in 3.2 sec", Says.NOTHING, None),
        (None, Says.NOTHING, None),
    ],
)  # fmt: skip
def test_every_form_of_why_is_read(text: str | None, says: Says, name: str | None) -> None:
    assert why(text) == Why(says=says, name=name)


def test_without_another_node_only_an_item_that_is_not_stuck_has_no_label() -> None:
    assert why("Waiting for next available executor", stuck=True, others=False).says is Says.NO_NODES
    assert why("Waiting for next available executor", stuck=False, others=False).says is Says.ANY


@given(st.text(st.characters(codec="utf-8", exclude_characters="‘’;"), min_size=1).filter(lambda x: "\n" not in x))
def test_any_label_comes_out_as_it_went_in(label: str) -> None:
    assert why(f"There are no nodes with the label ‘{label}’").name == label
    assert why(f"All nodes of label ‘{label}’ are offline").name == label


@given(st.text())
def test_no_why_breaks_the_reading(text: str) -> None:
    assert why(text).says in Says


@pytest.mark.parametrize(
    ("url", "below"),
    [
        ("http://jenkins.example:8080/job/a/", "job/a/"),
        ("https://host/ci/job/team/job/app/12/", "job/team/job/app/12/"),
        ("job/p3/1/", "job/p3/1/"),
        ("", ""),
    ],
)
def test_urls_are_told_below_the_controller_wherever_it_believes_to_be(url: str, below: str) -> None:
    assert relative(url) == below


@pytest.mark.parametrize(
    ("url", "job"),
    [
        ("job/a/", "a"),
        ("job/team/job/my%20app/12/", "team/my app"),
        ("job/m/axis=x,os=y/", "m"),
        ("", ""),
    ],
)
def test_the_job_of_a_task(url: str, job: str) -> None:
    assert job_of(url) == job


def test_the_recorded_queue_reads_with_its_labels() -> None:
    answer = json.loads(recorded("03-queue.json", "queue once some other node exists: why names the label")["body"])
    found = {i.queue_id: i for i in read_items(answer, {"rec-other"}, others=True)}
    assert found[10].kind is ItemKind.PIPELINE
    assert found[10].why == Why(says=Says.LABEL, name="rec-label")
    assert found[8].task == "job/rec-par/"
    assert found[8].parameters == {"IMAGE": "maven:3.9"}
    assert all(i.buildable_ms and i.since_ms <= i.buildable_ms for i in found.values())


def item(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "id": 7,
        "inQueueSince": 1000,
        "buildable": True,
        "buildableStartMilliseconds": 1001,
        "stuck": True,
        "why": "There are no nodes with the label ‘maven’",
        "task": {
            "_class": "hudson.model.FreeStyleProject",
            "fullName": "team/app",
            "name": "app",
            "url": "http://elsewhere/job/team/job/app/",
            "labelExpression": "maven && linux",
        },
        "actions": [],
    }
    return {**raw, **changes}


def test_an_item_that_is_not_buildable_is_not_shown() -> None:
    assert read_items({"items": [item(buildable=False)]}, set(), others=True) == []


def test_a_pipeline_item_knows_its_run() -> None:
    task = {
        "_class": "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask",
        "name": "part of p #3",
        "url": "job/f/job/p/3/",
    }
    (found,) = read_items({"items": [item(task=task)]}, set(), others=True)
    assert (found.kind, found.task, found.job, found.build_url) == (
        ItemKind.PIPELINE,
        "job/f/job/p/3/",
        "f/p",
        "job/f/job/p/3/",
    )


def test_a_task_without_a_build_record_is_of_another_kind() -> None:
    task = {"_class": "com.example.SomeTask", "name": "x", "url": "x/"}
    (found,) = read_items({"items": [item(task=task)]}, set(), others=True)
    assert (found.kind, found.build_url) == (ItemKind.OTHER, None)


def test_parameters_are_text_and_sensitive_ones_are_left_out() -> None:
    parameters = [
        {"_class": "hudson.model.StringParameterValue", "name": "A", "value": "x"},
        {"_class": "hudson.model.BooleanParameterValue", "name": "B", "value": True},
        {"_class": "hudson.model.PasswordParameterValue", "name": "C"},
    ]
    assert read_parameters({"actions": [{}, None, {"parameters": parameters}]}) == {"A": "x", "B": "true"}


def node(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "_class": "hudson.slaves.SlaveComputer",
        "displayName": "maven-x",
        "description": mark("prod", "maven-x", "a&&b"),
        "offline": False,
        "temporarilyOffline": False,
        "offlineCauseReason": "",
        "idle": True,
        "executors": [{"currentExecutable": None}],
    }
    return {**raw, **changes}


def test_only_nodes_with_the_owners_mark_and_their_own_name_are_ours() -> None:
    nodes = [
        node(),
        node(description="built by hand"),
        node(description=mark("prod-2", "maven-x")),
        node(description=mark("prod", "maven-y")),
        node(description=None),
    ]
    found = read_nodes({"computer": nodes}, "prod")
    assert [n.view is not None for n in found] == [True, False, False, False, False]
    assert found[0].label == "a&&b"


def test_a_running_build_is_seen() -> None:
    executors = [{"currentExecutable": {"queueId": 9, "url": "http://elsewhere/job/a/1/"}}]
    view = read_nodes({"computer": [node(idle=False, executors=executors)]}, "prod")[0].view
    assert view is not None
    assert (view.online, view.busy, view.queue_id, view.build_url) == (True, True, 9, "job/a/1/")


def test_a_barred_node_stays_online_until_its_connection_breaks() -> None:
    barred = node(offline=True, temporarilyOffline=True, offlineCauseReason=BAR_REASON)
    view = read_nodes({"computer": [barred]}, "prod")[0].view
    assert view is not None
    assert (view.online, view.accepting) == (True, False)
    broken = {**barred, "offlineCauseReason": "Connection was broken"}
    view = read_nodes({"computer": [broken]}, "prod")[0].view
    assert view is not None
    assert (view.online, view.accepting, view.offline_cause) == (False, False, "Connection was broken")


def test_the_recorded_nodes_hold_none_of_ours_and_no_built_in_one() -> None:
    answer = json.loads(recorded("04-builds.json", "computer set while busy")["body"])
    found = read_nodes(answer, "prod")
    assert [n.name for n in found] == ["os-q1", "os-q3", "os-ssh1", "rec-n2"]
    assert all(n.view is None for n in found)


@given(st.text(min_size=1))
def test_a_label_survives_the_description(label: str) -> None:
    raw = node(description=mark("prod", "maven-x", label) + "\n[provisioner] template maven")
    found = read_nodes({"computer": [raw]}, "prod")[0]
    assert found.label == label
    assert marked_for(raw["description"], "prod", "maven-x")


def test_the_cell_of_a_matrix_is_a_build_of_its_matrix_job() -> None:
    task = {
        "_class": "hudson.matrix.MatrixConfiguration",
        "fullName": "m/label=mx1",
        "name": "label=mx1",
        "url": "http://elsewhere/job/m/label=mx1/",
        "labelExpression": None,
    }
    (found,) = read_items({"items": [item(task=task)]}, set(), others=True)
    assert (found.kind, found.job, found.task) == (ItemKind.FREESTYLE, "m", "job/m/label=mx1/")
