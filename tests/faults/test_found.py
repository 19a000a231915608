"""Stories that lives at random told first, each by itself."""

from __future__ import annotations

from pathlib import Path

from provisioner.controller.port import BridgeMode
from provisioner.model.queue import ItemKind
from tests.faults.estate import Estate


def test_a_restart_of_the_controller_that_nobody_saw_cuts_off_no_suspended_pipeline(tmp_path: Path) -> None:
    with Estate(tmp_path, mode=BridgeMode.OFF) as estate:
        estate.start()
        estate.jenkins.queue(kind=ItemKind.PIPELINE, build_s=300)
        estate.pass_s(10)
        estate.kill()
        estate.jenkins.connect_s = 75
        estate.jenkins.restart()
        estate.jenkins.items.clear()  # its run is being loaded; it asks for its node only later
        (work,) = estate.jenkins.works
        asks, work.item = work.item, None
        estate.start()
        estate.pass_s(70)
        work.item = asks
        assert asks is not None
        estate.jenkins.items[asks.key.queue_id] = work
        estate.jenkins._snap()
        estate.finish()
        assert estate.outcomes() == {0: "ran"}
        assert len(estate.jenkins.registered) == 1


def test_an_agent_that_nothing_can_take_since_the_bridge_is_lost_is_replaced(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.jenkins.queue()
        estate.pass_s(1)
        estate.jenkins.quieting = True  # it is connected, and its build does not start
        estate.pass_s(5)
        estate.jenkins.change_mode(BridgeMode.OFF)
        estate.finish(within_s=900)
        assert estate.outcomes() == {0: "ran"}
        assert len(set(estate.jenkins.registered)) == 2


def test_the_node_of_a_suspended_pipeline_whose_instance_is_nowhere_is_swept(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        work = estate.jenkins.queue(kind=ItemKind.PIPELINE, build_s=300)
        estate.pass_s(10)
        (name,) = estate.jenkins.nodes
        estate.kill()
        estate.lose_state()
        estate.jenkins.excuse(name)
        for engine in estate.engines.values():
            engine.vanish(name)
        estate.jenkins.nodes[name].work = None
        estate.jenkins.nodes[name].online = False
        work.node = None
        estate.jenkins._enter(work, name)  # it waits for its node by name
        estate.start()
        estate.finish(within_s=900)
        assert work.ended == ["cut as allowed"]
