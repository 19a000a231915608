"""The transport `ssh-gateway` as its users run it: it outlives the sidecar, and nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from controller import freestyle_xml, pipeline_xml

from tests.builds import build, create_job, nodes, result
from tests.sidecar_process import SidecarProcess
from tests.standin.configuration import configured
from tests.standin_process import StandinProcess, ask, secret_of

#: Fails if the agent's connection ends meanwhile.
SLOW = "echo begun; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.5; done; echo done"


class GatewayTest(SidecarProcess):
    """A sidecar with a gateway beside it, which is ended with it."""

    @property
    def gateway_folder(self) -> Path:
        return self.folder / "state" / "gateway"

    def gateway_log(self) -> list[dict[str, object]]:
        try:
            lines = (self.gateway_folder / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def gateway_pids(self) -> list[int]:
        """Of every gateway of this folder that lives."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"provisioner.gateway" in words and str(self.gateway_folder).encode() in words:
                found.append(int(entry.name))
        return found

    def events(self, name: str) -> list[dict[str, object]]:
        return [one for one in self.gateway_log() if one["event"] == name]


@pytest.fixture
def sidecar(standin: StandinProcess, tmp_path: Path) -> Iterator[GatewayTest]:
    made = GatewayTest(tmp_path, configured(standin, transport="ssh-gateway"), token=standin.token)
    yield made
    made.until(lambda: made.metric("agents") == 0, "no agent is left")
    made.stop()
    made.until(lambda: not made.gateway_pids(), "the gateway ended with the sidecar", within_s=20)


def begun(standin: StandinProcess, job: str) -> bool:
    return "\nbegun" in ask(standin, "GET", f"job/{job}/1/consoleText").text


@pytest.mark.parametrize("bridge", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_builds_of_both_kinds_run_through_the_gateway(
    standin: StandinProcess, sidecar: GatewayTest, bridge: str
) -> None:
    sidecar.config["controllers"][0]["bridge"] = bridge
    sidecar.write()
    sidecar.start()
    create_job(standin, "f", freestyle_xml("echo from the shell", label="linux"))
    create_job(standin, "p", pipeline_xml("node('linux') { sh 'echo from the shell' }"))
    for job in ("f", "p"):
        build(standin, job)
    for job in ("f", "p"):
        sidecar.until(lambda name=job: result(standin, name) == "SUCCESS", f"{job} ends well")  # type: ignore[misc]
        assert "from the shell" in ask(standin, "GET", f"job/{job}/1/consoleText").text
    sidecar.until(lambda: not nodes(standin), "no node is left")
    sidecar.until(lambda: sidecar.metric("agents") == 0, "no agent is left")
    entries = ask(standin, "GET", "credentials/store/system/domain/_/api/json?tree=credentials[id]").json()
    assert entries["credentials"] == []
    assert len(sidecar.events("agent.admitted")) == len(sidecar.events("agent.revoked")) >= 1
    assert not list((sidecar.folder / "state" / "work" / "here").glob("[!.]*/*")), "a work folder is left"


def test_a_killed_sidecar_loses_no_build_and_no_gateway(standin: StandinProcess, sidecar: GatewayTest) -> None:
    sidecar.start()
    create_job(standin, "f", freestyle_xml(SLOW, label="linux"))
    build(standin, "f")
    sidecar.until(lambda: begun(standin, "f"), "the build runs")
    (gateway,) = sidecar.gateway_pids()
    sidecar.kill()
    assert sidecar.gateway_pids() == [gateway]
    sidecar.start()
    assert sidecar.gateway_pids() == [gateway]
    sidecar.until(lambda: result(standin, "f") == "SUCCESS", "the build ends well")
    sidecar.until(lambda: not nodes(standin) and sidecar.metric("agents") == 0, "nothing is left")
    create_job(standin, "next", freestyle_xml("true", label="linux"))
    build(standin, "next")
    sidecar.until(lambda: result(standin, "next") == "SUCCESS", "the gateway takes new agents of the new sidecar")
    assert sidecar.gateway_pids() == [gateway]


@pytest.mark.slow
def test_a_drained_sidecar_leaves_the_gateway_to_its_builds(standin: StandinProcess, sidecar: GatewayTest) -> None:
    sidecar.start()
    create_job(standin, "f", freestyle_xml(SLOW, label="linux"))
    build(standin, "f")
    sidecar.until(lambda: begun(standin, "f"), "the build runs")
    (gateway,) = sidecar.gateway_pids()
    assert sidecar.stop() < 10
    assert sidecar.gateway_pids() == [gateway]
    sidecar.until(lambda: result(standin, "f") == "SUCCESS", "the build ends well without a sidecar")
    sidecar.start()
    sidecar.until(lambda: not nodes(standin) and sidecar.metric("agents") == 0, "nothing is left")


def test_death_of_the_gateway_ends_its_builds_and_leaves_nothing(standin: StandinProcess, sidecar: GatewayTest) -> None:
    sidecar.start()
    create_job(standin, "f", freestyle_xml(SLOW, label="linux"))
    build(standin, "f")
    sidecar.until(lambda: begun(standin, "f"), "the build runs")
    (gateway,) = sidecar.gateway_pids()
    os.kill(gateway, signal.SIGKILL)
    sidecar.until(lambda: result(standin, "f") == "FAILURE", "the build ends")
    sidecar.until(lambda: not nodes(standin) and sidecar.metric("agents") == 0, "nothing is left")
    assert not list((sidecar.folder / "state" / "work" / "here").glob("[!.]*/*")), "a work folder is left"
    ports = {one["listen"] for one in sidecar.events("gateway.started")}
    create_job(standin, "next", freestyle_xml("true", label="linux"))
    build(standin, "next")
    sidecar.until(lambda: result(standin, "next") == "SUCCESS", "another gateway takes its place")
    assert {one["listen"] for one in sidecar.events("gateway.started")} == ports
    assert gateway not in sidecar.gateway_pids()


def test_an_agent_that_cannot_start_tells_why(standin: StandinProcess, sidecar: GatewayTest) -> None:
    """Its standard error went to the gateway, not to a file of the provider's."""
    broken = sidecar.folder / "broken-java"
    broken.write_text("#!/bin/sh\necho 'this machine has no Java' >&2\nexit 3\n")
    broken.chmod(0o755)
    sidecar.config["providers"][0]["java"] = str(broken)
    sidecar.config["templates"][0]["retries"] = 0
    sidecar.write()
    sidecar.start()
    create_job(standin, "f", freestyle_xml("true", label="linux"))
    build(standin, "f")
    sidecar.until(lambda: result(standin, "f") == "NOT_BUILT", "the build ends")
    console = ask(standin, "GET", "job/f/1/consoleText").text
    assert "agent_exited" in console
    assert "this machine has no Java" in console
    sidecar.until(lambda: not nodes(standin), "no node is left")


def test_nothing_secret_is_anywhere(standin: StandinProcess, sidecar: GatewayTest) -> None:
    from provisioner.transports.keys import agent_keys

    sidecar.start()
    create_job(standin, "f", freestyle_xml(SLOW, label="linux"))
    build(standin, "f")
    sidecar.until(lambda: begun(standin, "f"), "the build runs")
    (name,) = nodes(standin)
    secret = secret_of(standin, name)
    private = agent_keys(secret).user.private.splitlines()
    words = [secret, *private[3:-1], standin.token]  # the first lines of all such keys are the same
    seen = {}
    for entry in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                content = (entry / file).read_bytes()
            except OSError:
                continue
            # the sidecar's own token is given to it in its environment by this test
            if file == "environ" and int(entry.name) == sidecar.pid:
                continue
            if b"provisioner" in content or b"JENKINS_PROVISIONER" in content or name.encode() in content:
                seen[f"{entry.name} {file}"] = content
    assert any(b"provisioner.gateway" in content for content in seen.values())
    for path in (*(sidecar.folder / "state").glob("*"), *sidecar.gateway_folder.glob("*"), sidecar.log_file):
        if path.is_file() and path.name != "token":
            seen[str(path)] = path.read_bytes()
    for word in words:
        assert [place for place, content in seen.items() if word.encode() in content] == []
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in sidecar.gateway_folder.iterdir()}
    assert modes["host_key"] == modes["control.sock"] == modes["log"] == modes["lock"] == "0o600"
    assert sidecar.gateway_folder.stat().st_mode & 0o777 == 0o700
    sidecar.until(lambda: result(standin, "f") == "SUCCESS", "the build ends well")
