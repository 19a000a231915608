"""SIGTERM ends the sidecar in time although an engine does not answer the call that it is in."""

from __future__ import annotations

import time
from pathlib import Path

import leaks
import pytest

from tests.faults.engine_behind_proxy import Engine
from tests.sidecar_process import SidecarProcess
from tests.standin_process import StandinProcess

pytestmark = [pytest.mark.standin, pytest.mark.docker]


def test_a_call_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.start()
    with StandinProcess("--bridge", "init") as standin:
        main = {"name": "main", "url": standin.url, "user": standin.user, "token": {"env": "JENKINS_TOKEN"}}
        box = {"name": "box", "backend": "docker", "endpoint": f"unix://{engine.socket}", "max_agents": 1}
        image = {"image": "jenkins-provisioner-test/busybox:latest", "pull": "never", "java": "image"}
        sidecar = SidecarProcess(
            tmp_path,
            {
                "id": leaks.new_owner(),
                "controllers": [main],
                "providers": [box],
                "templates": [{"name": "any", "labels": ["scale"], "providers": ["box"], **image}],
            },
            token=standin.token,
        )
        try:
            sidecar.start()
            engine.fail("hangs")
            standin.scale(items=1, label="scale")
            sidecar.until(lambda: sidecar.metric("agents", state="starting") == 1, "a start is under way")
            time.sleep(1)
            took_s = sidecar.stop()
        finally:
            sidecar.kill()
            engine.mend("hangs")
            engine.end()
    assert took_s < 10
