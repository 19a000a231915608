"""Agents that the stand-in dials over SSH, as Jenkins' plugin does, with a sidecar and real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sidecar_process import SidecarProcess
from tests.standin.test_sidecar import TOOLS, configured, create, nodes, queue, result
from tests.standin_process import StandinProcess, ask


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_a_build_runs_on_an_agent_that_is_dialled_and_nothing_is_left(
    standin: StandinProcess, tmp_path: Path, bridge: str
) -> None:
    sidecar = SidecarProcess(tmp_path, configured(standin, bridge=bridge, transport="ssh"), token=standin.token)
    try:
        sidecar.start()
        create(standin, "f", TOOLS.freestyle_xml("echo from the shell", label="linux"))
        queue(standin, "f")
        sidecar.until(lambda: result(standin, "f") == "SUCCESS", "the build succeeded")
        sidecar.until(lambda: not nodes(standin) and sidecar.metric("agents") == 0, "its agent is gone")
        entries = ask(standin, "GET", "credentials/store/system/domain/_/api/json").json()["credentials"]
        assert entries == []
    finally:
        sidecar.stop()
