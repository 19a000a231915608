"""Orphans are shown with kind, reason and age before they are removed, and only what is ours is."""

from __future__ import annotations

from pathlib import Path

from provisioner.backends.contract import InstanceState, Order, Status
from provisioner.controller.port import NodeOrder
from provisioner.model.queue import ItemKind
from tests.fakes.backend import FakeInstance
from tests.fakes.jenkins import Node
from tests.faults.estate import Estate


def stray_node(estate: Estate, name: str) -> None:
    order = NodeOrder(name=name, owner="test", labels=("maven",), remote_fs="/", request=None)
    estate.jenkins.nodes[name] = Node(order=order, stored_labels=frozenset())


def stray_instance(estate: Estate, name: str, owner: str = "test") -> None:
    """Made by an order that no record knows."""
    order = Order(agent=name, owner=owner, image=None, command=(), remote_fs="/")
    estate.box.instances[name] = FakeInstance(order=order, status=Status(state=InstanceState.RUNNING))


def reasons(estate: Estate) -> dict[tuple[str, str], str]:
    return {(o.kind, o.agent): o.reason for o in estate.operations.orphans()}


def test_a_node_without_an_instance_is_shown_with_its_reason_and_age_and_then_removed(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.pass_s(100)  # no Pipeline of before comes back any more
        stray_node(estate, "maven-stray")
        estate.jenkins._snap()
        estate.pass_s(5)
        assert reasons(estate) == {("node", "maven-stray"): "no record knows it; removed when a second look agrees"}
        [orphan] = estate.operations.orphans()
        assert orphan.age_s is not None
        assert 0 < orphan.age_s <= 6
        estate.pass_s(40)
        assert estate.operations.orphans() == []
        assert "maven-stray" not in estate.jenkins.nodes


def test_after_a_start_a_node_is_kept_for_pipelines_and_says_so(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        stray_node(estate, "maven-stray")
        estate.start()
        estate.pass_s(40)
        assert "a Pipeline may come back to it" in reasons(estate)["node", "maven-stray"]
        estate.pass_s(120)
        assert reasons(estate) == {}
        assert estate.jenkins.nodes == {}


def test_an_instance_without_a_node_is_shown_and_removed_and_one_of_another_owner_is_not_touched(
    tmp_path: Path,
) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.pass_s(1)
        stray_instance(estate, "maven-stray")
        stray_instance(estate, "maven-theirs", owner="somebody")
        estate.until(lambda: reasons(estate), "it was seen")
        assert reasons(estate) == {
            ("container", "maven-stray"): "no record knows it; removed when a second look agrees"
        }
        estate.pass_s(60)
        assert reasons(estate) == {}
        assert list(estate.box.instances) == ["maven-theirs"]


def test_an_instance_whose_node_is_there_goes_after_it(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.pass_s(1)
        stray_instance(estate, "maven-stray")
        stray_node(estate, "maven-stray")
        estate.jenkins._snap()
        estate.until(lambda: ("container", "maven-stray") in reasons(estate), "it was seen")
        assert "its node is still there, and goes first" in reasons(estate)["container", "maven-stray"]
        estate.pass_s(300)
        assert estate.box.empty
        assert estate.jenkins.nodes == {}


def test_nothing_is_removed_while_a_listing_is_incomplete(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.pass_s(1)
        stray_instance(estate, "maven-stray")
        estate.box.complete = False
        estate.pass_s(300)
        assert list(estate.box.instances) == ["maven-stray"]
        estate.box.complete = True
        estate.pass_s(90)
        assert estate.box.empty


def test_who_asks_for_it_removes_no_node_that_a_pipeline_waits_for_while_a_provider_shows_nothing(
    tmp_path: Path,
) -> None:
    with Estate(tmp_path) as estate:
        estate.box.complete = False
        estate.start()
        stray_node(estate, "maven-stray")
        estate.jenkins.queue("maven-stray", kind=ItemKind.PIPELINE)
        estate.pass_s(150)  # longer than the grace after a start
        told = "a Pipeline waits for it, and not every provider has shown what exists there"
        assert told in reasons(estate)["node", "maven-stray"]
        asked = estate.loop.create_task(estate.operations.delete_orphans())
        estate.until(asked.done, "it was answered")
        removed, stay = asked.result()
        assert ([o.agent for o in removed], [o.agent for o in stay]) == ([], ["maven-stray"])
        assert "maven-stray" in estate.jenkins.nodes
