"""A real engine that hangs, or is down, while builds of a real controller run and wait: told, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from controller import RealController, freestyle_xml

from tests import leaks
from tests.faults.engine_behind_proxy import Engine
from tests.sidecar_process import SidecarProcess

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    made.start()
    yield made
    made.end()


@pytest.mark.parametrize("how", [pytest.param("is down", marks=pytest.mark.slow), "hangs"])
def test_builds_run_on_wait_and_end_well(
    real_jenkins: RealController, engine: Engine, tmp_path: Path, how: str
) -> None:
    owner = leaks.new_owner()
    box = {"name": "box", "backend": "docker", "endpoint": f"unix://{engine.socket}", "network": "host"}
    image = {"image": "jenkins-provisioner-test/agent:latest", "pull": "never"}
    main = {"name": "main", "url": real_jenkins.url, "user": real_jenkins.user, "token": {"env": "JENKINS_TOKEN"}}
    sidecar = SidecarProcess(
        tmp_path,
        {
            "id": owner,
            "controllers": [main],
            "providers": [{**box, "max_agents": 2, "timeout": "5s"}],
            "templates": [{"name": "one", "labels": [owner], "providers": ["box"], **image}],
        },
        token=real_jenkins.token,
    )
    jobs = [f"{owner}-{name}" for name in ("running", "waiting")]
    for job, shell in zip(jobs, ("sleep 8", "true"), strict=True):
        real_jenkins.create_job(job, freestyle_xml(shell, label=owner))

    def ended(job: str) -> bool:
        build = real_jenkins.build(job)
        return build is not None and not build["building"]

    sidecar.start()
    try:
        real_jenkins.queue_build(jobs[0])
        sidecar.until(lambda: sidecar.metric("agents", state="running") == 1, "the first build runs")
        engine.fail(how)
        real_jenkins.queue_build(jobs[1])
        sidecar.until(lambda: sidecar.get("/readyz")[0] == 503, "readiness tells", within_s=90)
        assert sidecar.ready()["providers"]["box"] not in ("ok", "")
        assert sidecar.get("/healthz")[0] == 200
        sidecar.until(lambda: ended(jobs[0]), "the first build ends although the engine is away")
        time.sleep(3)
        engine.mend(how)
        sidecar.until(lambda: ended(jobs[1]), "the second build gets its agent", within_s=150)
        sidecar.until(lambda: sidecar.metric("agents") == 0, "no agent is left")
        # what the engine was asked for while it hung may come up only now, and is swept
        sidecar.until(lambda: not leaks.of_owner(owner), "nothing is left", within_s=120)
        assert sidecar.get("/readyz")[0] == 200
    finally:
        sidecar.stop()
    for job in jobs:
        assert real_jenkins.begun(job)["result"] == "SUCCESS", real_jenkins.console(job)
        real_jenkins.delete_job(job)
    computers = real_jenkins.get_json("computer/api/json?tree=computer[description]")["computer"]
    assert not [node for node in computers if f"owner={owner} " in (node["description"] or "")]
    assert not leaks.left_of(owner)
