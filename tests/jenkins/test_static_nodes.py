"""Clean static nodes as a provider: a request is served by one of them before anything new is started."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from controller import RealController, freestyle_xml, pipeline_xml

from tests.jenkins.cleanup_plant import JOB, Plant
from tests.sidecar_process import SidecarProcess

NAMES = ("t1", "t2")


@pytest.fixture(scope="module")
def plant(real_jenkins: RealController, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(real_jenkins, tmp_path_factory.mktemp("static"), NAMES)
    yield made
    made.remove()


@pytest.fixture
def served(plant: Plant, tmp_path: Path) -> Iterator[Callable[[str], SidecarProcess]]:
    """Starts a sidecar that serves the label `mixed`; both nodes are clean when it returns."""
    sidecars: list[SidecarProcess] = []

    def start(bridge: str) -> SidecarProcess:
        owner = f"static-{bridge}"
        main = {"name": "main", "url": plant.jenkins.url, "user": plant.jenkins.user, "token": {"env": "JENKINS_TOKEN"}}
        configuration = {
            "id": owner,
            "controllers": [{**main, "bridge": bridge, "poll_interval": 0.3}],
            "providers": [
                {"name": "lab", "backend": "static", "node_labels": ["linux"], "max_agents": 4},
                {"name": "box", "backend": "process", "work_dir": str(tmp_path / "agents"), "max_agents": 4},
            ],
            "templates": [{"name": "mixed", "labels": ["mixed"], "providers": ["lab", "box"]}],
            "cleanup": {"controller": "main", "job": JOB, "interval": 1, "retry_after": 1},
        }
        sidecar = SidecarProcess(tmp_path, configuration, token=plant.jenkins.token)
        sidecars.append(sidecar)
        sidecar.start(ready=False)  # on a loaded machine a controller may take long to compile its first script
        plant.until(lambda: all(plant.is_clean(name) for name in NAMES), "both are clean")
        sidecar.until(lambda: sidecar.get("/readyz")[0] == 200, "the sidecar is ready")
        return sidecar

    yield start
    for sidecar in sidecars:
        sidecar.stop()
    for job in ("mixed", "mixed-pipeline", "mixed-long"):
        plant.jenkins.delete_job(job)


def _jobs(plant: Plant, lasts_s: float = 3) -> None:
    shell = plant.step("B", lasts_s).replace("../../journal", "${JOURNAL:-../../journal}")
    xml = freestyle_xml(shell, label="mixed", parameters={"N": ""})
    plant.jenkins.create_job("mixed", xml.replace("<concurrentBuild>false", "<concurrentBuild>true"))
    script = f"node('mixed') {{ echo \"on ${{env.NODE_NAME}}\"; sh '''{shell}''' }}"
    plant.jenkins.create_job("mixed-pipeline", pipeline_xml(script, parameters={"N": ""}))


def _agents(sidecar: SidecarProcess) -> list[dict[str, Any]]:
    token = (sidecar.folder / "state" / "token").read_text().strip()
    import urllib.request

    request = urllib.request.Request(
        f"http://127.0.0.1:{sidecar.port}/api/v1/agents?all=true", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["agents"]
    return found


@pytest.mark.parametrize("bridge", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_clean_nodes_come_first_and_go_through_cleanup(
    plant: Plant, served: Callable[[str], SidecarProcess], bridge: str
) -> None:
    _jobs(plant)
    sidecar = served(bridge)
    before = {name: len(plant.journal(name)) for name in NAMES}
    labels = {name: plant.label_string(name) for name in NAMES}
    plant.jenkins.queue_build("mixed", {"N": "1"})
    if bridge == "off":
        # without the bridge Jenkins gives a reserved node to any build of the label: one after the other
        plant.until(lambda: any(len(plant.journal(name)) > before[name] for name in NAMES), "the first one runs")
    plant.jenkins.queue_build("mixed-pipeline", {"N": "2"})
    ended = [plant.jenkins.wait_build("mixed"), plant.jenkins.wait_build("mixed-pipeline")]
    assert [build["result"] for build in ended] == ["SUCCESS", "SUCCESS"]
    for name in NAMES:
        signs = [line.split()[0] for line in plant.journal(name)[before[name] :]]
        assert signs[:2] == ["B+", "B-"], (name, signs)
    sidecar.until(lambda: not sidecar.metric("agents"), "the agents are gone")

    def cleaned(name: str) -> bool:
        # the label alone may still be that of before
        signs = [line.split()[0] for line in plant.journal(name)[before[name] :]]
        return signs == ["B+", "B-", "C+", "C!", "C-"] and plant.is_clean(name)

    plant.until(lambda: all(map(cleaned, NAMES)), "they are clean again")
    assert labels == {name: plant.label_string(name) for name in NAMES}
    if bridge != "off":
        console = plant.jenkins.console("mixed")
        assert "[provisioner] Template mixed on provider lab serves this build" in console
        assert "[provisioner] Template mixed on provider lab serves" in plant.jenkins.console("mixed-pipeline")
    plant.check()


@pytest.mark.slow
def test_what_no_clean_node_can_serve_is_started_elsewhere_and_explained(
    plant: Plant, served: Callable[[str], SidecarProcess]
) -> None:
    """Six builds for two clean nodes: two are served by them, four by new agents, and none shares its node."""
    _jobs(plant, lasts_s=6)
    served("auto")
    before = {name: len(plant.journal(name)) for name in NAMES}
    for number in range(6):
        plant.jenkins.queue_build("mixed", {"N": str(number)})
    for number in range(1, 7):
        assert plant.jenkins.wait_build("mixed", number)["result"] == "SUCCESS"
    nodes = [plant.jenkins.begun("mixed", number)["builtOn"] for number in range(1, 7)]
    assert sorted(node for node in nodes if node in NAMES) == list(NAMES), nodes
    assert sum(node.startswith("mixed-") for node in nodes) == 4
    for name in NAMES:
        assert [x.split()[0] for x in plant.journal(name)[before[name] :]][:2] == ["B+", "B-"]
    plant.until(lambda: all(plant.is_clean(name) for name in NAMES), "they are clean again")
    plant.check()


@pytest.mark.slow
def test_a_sidecar_that_is_killed_takes_its_reservations_up_again(
    plant: Plant, served: Callable[[str], SidecarProcess]
) -> None:
    _jobs(plant, lasts_s=8)
    sidecar = served("auto")
    before = {name: len(plant.journal(name)) for name in NAMES}
    plant.jenkins.queue_build("mixed", {"N": "1"})
    plant.until(lambda: any(len(plant.journal(name)) > before[name] for name in NAMES), "it runs")
    sidecar.kill()
    time.sleep(1)
    sidecar.start()
    build = plant.jenkins.wait_build("mixed")
    assert build["result"] == "SUCCESS"
    assert build["builtOn"] in NAMES
    sidecar.until(lambda: not sidecar.metric("agents"), "its agent is gone")
    plant.until(lambda: all(plant.is_clean(name) for name in NAMES), "they are clean again")
    plant.check()
