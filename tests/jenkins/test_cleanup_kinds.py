"""Every kind of cleanup job runs on just the node that it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from controller import RealController, freestyle_xml

from tests.jenkins.cleanup_plant import JOB, CleanupProcess, Plant, cleaning_xml

NAMES = ("k1", "k2")


@pytest.fixture(scope="module")
def plant(real_jenkins: RealController, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(real_jenkins, tmp_path_factory.mktemp("kinds"), NAMES)
    yield made
    made.remove()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipeline", "node-label", "plain"])
def test_a_cleanup_job_of_any_kind_cleans_the_node_that_it_is_for(plant: Plant, tmp_path: Path, kind: str) -> None:
    """A plain freestyle job cannot choose its node: its item is sent there from within the controller."""
    jenkins = plant.jenkins
    jenkins.delete_job(JOB)
    jenkins.create_job(JOB, cleaning_xml(kind))
    before = {name: len(plant.journal(name)) for name in NAMES}
    ended = CleanupProcess(plant, tmp_path, kind, retries=0).run("--once")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in NAMES:
        assert plant.is_clean(name)
        assert [line.split()[0] for line in plant.journal(name)[before[name] :]] == ["C+", "C!", "C-"]
    builds = jenkins.get_json(f"job/{JOB}/api/json?tree=builds[number,builtOn,actions[*]]")["builds"]
    assert len(builds) == len(NAMES)
    for build in builds:
        # what sent it there left no trace in the build's own record
        xml = (jenkins.home / "jobs" / JOB / "builds" / str(build["number"]) / "build.xml").read_text()
        assert "ProvisionerClean" not in xml
    plant.check()


def _executors(jenkins: RealController, name: str, count: int) -> None:
    jenkins.script(
        f"def j = jenkins.model.Jenkins.get(); def n = j.getNode('{name}'); n.numExecutors = {count}; j.updateNode(n)"
    )


@pytest.mark.slow
def test_a_cleaning_and_every_other_build_keep_out_of_each_others_way(plant: Plant, tmp_path: Path) -> None:
    """Two executors, a build that runs until it was looked at, and more that want in by another label."""
    jenkins = plant.jenkins
    name = "k1"
    jenkins.delete_job(JOB)
    jenkins.create_job(JOB, cleaning_xml("pipeline"))  # that a person, too, can send to a node
    _executors(jenkins, name, 2)
    jenkins.create_job("side", freestyle_xml(plant.step("B", 1), label=f"last-{name}", parameters={"N": ""}))
    cleanup = CleanupProcess(plant, tmp_path, "sides", skip=[n for n in NAMES if n != name])
    assert cleanup.run("--once").returncode == 0
    try:
        before = len(plant.journal(name))
        plant.spoil(name, "stay")
        jenkins.queue_build("side", {"N": "1"})
        plant.until(lambda: len(plant.journal(name)) > before, "the build runs")
        # somebody asks by hand for a cleaning, in the middle of it
        jenkins.queue_build(JOB, {"NODE": name})
        plant.until(
            lambda: any("runs a build" in (item["why"] or "") for item in jenkins.queue_items()),
            "the cleaning waits",
            within_s=100,
        )
        plant.mend(name, "stay")
        plant.until(lambda: any(x.startswith("C+") for x in plant.journal(name)[before:]), "it is cleaned")
        jenkins.queue_build("side", {"N": "2"})
        plant.until(lambda: sum(x.startswith("B-") for x in plant.journal(name)[before:]) == 2, "both builds have run")
        signs = [line.split()[0] for line in plant.journal(name)[before:]]
        assert signs == ["B+", "B-", "C+", "C!", "C-", "B+", "B-"]
        assert cleanup.run("--once").returncode == 0
    finally:
        plant.mend_all(name)
        _executors(jenkins, name, 1)
        jenkins.delete_job("side")
