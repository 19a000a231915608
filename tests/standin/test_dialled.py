"""Agents that the stand-in dials over SSH, as Jenkins' plugin does, with a sidecar and real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from controller import freestyle_xml

from tests.builds import build, create_job, nodes, result
from tests.sidecar_process import SidecarProcess
from tests.standin.configuration import configured
from tests.standin_process import StandinProcess, ask


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_a_build_runs_on_an_agent_that_is_dialled_and_nothing_is_left(
    standin: StandinProcess, tmp_path: Path, bridge: str
) -> None:
    sidecar = SidecarProcess(tmp_path, configured(standin, bridge=bridge, transport="ssh"), token=standin.token)
    try:
        sidecar.start()
        create_job(standin, "f", freestyle_xml("echo from the shell", label="linux"))
        build(standin, "f")
        sidecar.until(lambda: result(standin, "f") == "SUCCESS", "the build succeeded")
        sidecar.until(lambda: not nodes(standin) and sidecar.metric("agents") == 0, "its agent is gone")
        entries = ask(standin, "GET", "credentials/store/system/domain/_/api/json").json()["credentials"]
        assert entries == []
    finally:
        sidecar.stop()
