"""SIGTERM ends the sidecar in time although an engine does not answer the call that it is in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests import leaks
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
            engine.end()  # as it hangs: what was asked of it would be made, and nobody is there to remove it
    assert took_s < 10


def test_what_an_engine_that_hung_makes_late_is_swept(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.start()
    owner = leaks.new_owner()
    with StandinProcess("--bridge", "init") as standin:
        main = {"name": "main", "url": standin.url, "user": standin.user, "token": {"env": "JENKINS_TOKEN"}}
        box = {"name": "box", "backend": "docker", "endpoint": f"unix://{engine.socket}", "max_agents": 1}
        image = {"image": "jenkins-provisioner-test/busybox:latest", "pull": "never", "java": "image", "retries": 0}
        sidecar = SidecarProcess(
            tmp_path,
            {
                "id": owner,
                "controllers": [main],
                "providers": [{**box, "timeout": "3s"}],
                "templates": [{"name": "any", "labels": ["scale"], "providers": ["box"], **image}],
            },
            token=standin.token,
        )
        try:
            sidecar.start()
            engine.fail("hangs")
            standin.scale(items=1, label="scale")
            sidecar.until(lambda: sidecar.metric("launches_total", result="failed") >= 1, "the start was given up")
            engine.mend("hangs")  # what was asked for is done now
            sidecar.until(lambda: sidecar.metric("requests") == 0, "the build ended with its reason", within_s=120)
            sidecar.until(lambda: not leaks.of_owner(owner), "nothing is left", within_s=120)
        finally:
            sidecar.stop()
            engine.end()
