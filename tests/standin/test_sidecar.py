"""`provisioner run` beside the stand-in: the main job, clear sentences, signals, reload."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from controller import freestyle_xml, pipeline_xml

from tests.builds import build, create_job, nodes, result
from tests.sidecar_process import SidecarProcess, free_port
from tests.standin.configuration import configured
from tests.standin_process import StandinProcess, ask


@pytest.fixture
def sidecar(standin: StandinProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    made = SidecarProcess(tmp_path, configured(standin), token=standin.token)
    yield made
    made.stop()


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_builds_of_both_kinds_run_each_on_a_fresh_agent(
    standin: StandinProcess, sidecar: SidecarProcess, bridge: str
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
        console = ask(standin, "GET", f"job/{job}/1/consoleText").text
        assert "from the shell" in console
        if bridge == "auto":
            assert "[provisioner] Template any on provider here serves this build" in console
    sidecar.until(lambda: not nodes(standin), "no node is left")
    sidecar.until(lambda: sidecar.metric("agents") == 0, "no agent is left")
    agents_used = sidecar.metric("launches_total", result="ok")
    # without the bridge a second build may slip onto a node between two polls
    assert agents_used == 2 or (bridge == "off" and agents_used == 1)
    assert not list((sidecar.folder / "state" / "work" / "here").glob("[!.]*/*")), "a work folder is left"


def test_an_unreachable_controller_is_told_and_found_again(standin: StandinProcess, sidecar: SidecarProcess) -> None:
    port = free_port()
    sidecar.config["controllers"][0]["url"] = f"http://127.0.0.1:{port}/"
    sidecar.write()
    sidecar.start(ready=False)
    sidecar.until(lambda: "refused" in sidecar.ready()["controllers"]["main"], "the refusal is told")
    assert sidecar.get("/readyz")[0] == 503
    assert sidecar.metric("controller_up", controller="main") == 0
    with Relay(port, standin.url):
        sidecar.until(lambda: sidecar.get("/readyz")[0] == 200, "it is found without a restart")


def test_a_wrong_token_is_one_clear_sentence(standin: StandinProcess, tmp_path: Path) -> None:
    made = SidecarProcess(tmp_path, configured(standin), token="Zq81-not-the-token")
    made.start(ready=False)
    try:
        made.until(lambda: made.ready()["controllers"]["main"] not in ("ok", "not reached yet"), "the refusal is told")
        problem = made.ready()["controllers"]["main"]
        assert "token" in problem
        assert "\n" not in problem
        assert not made.said("Zq81")
    finally:
        made.stop()


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provisioner", *words],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_a_bad_configuration_ends_with_status_2_and_every_error(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("id: Bad Id\ncontrollers: []\nprovidrs: []\n")
    ended = run("run", "-c", str(file))
    assert ended.returncode == 2
    for part in ("bad.yaml:1: id:", "bad.yaml:2: controllers:", "bad.yaml:3: providrs:"):
        assert part in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_secret_names_its_variable(standin: StandinProcess, sidecar: SidecarProcess) -> None:
    ended = run("run", "-c", str(sidecar.config_file), env={"JENKINS_TOKEN": ""})
    assert ended.returncode == 2
    assert re.search(
        r"provisioner\.yaml:\d+: controllers\[0\]\.token: environment variable JENKINS_TOKEN", ended.stderr
    )
    assert "Traceback" not in ended.stderr


def test_a_second_sidecar_on_the_same_state_is_refused(sidecar: SidecarProcess) -> None:
    sidecar.start()
    ended = run("run", "-c", str(sidecar.config_file), env={"JENKINS_TOKEN": "x"})
    assert ended.returncode == 1
    assert "held by another provisioner" in ended.stderr


def test_a_port_that_is_taken_is_one_clear_sentence(standin: StandinProcess, sidecar: SidecarProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sidecar.config["http"]["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        sidecar.write()
        ended = run("run", "-c", str(sidecar.config_file), env={"JENKINS_TOKEN": standin.token})
    assert ended.returncode == 2
    assert "http.listen" in ended.stderr


def test_sighup_takes_a_good_file_and_refuses_a_bad_one(standin: StandinProcess, sidecar: SidecarProcess) -> None:
    sidecar.start()
    create_job(standin, "f", freestyle_xml("true", label="windows"))
    build(standin, "f")
    good = sidecar.config_file.read_text()
    sidecar.config_file.write_text("id: [")
    os.kill(sidecar.pid, signal.SIGHUP)
    sidecar.until(lambda: sidecar.said("config.refused"), "the bad file is refused")
    sidecar.config_file.write_text(good.replace("- linux", "- linux\n  - windows"))
    os.kill(sidecar.pid, signal.SIGHUP)
    sidecar.until(lambda: result(standin, "f") == "SUCCESS", "the waiting build is served by the new template")


def test_sigterm_ends_within_ten_seconds_and_leaves_the_busy_agent(
    standin: StandinProcess, sidecar: SidecarProcess
) -> None:
    sidecar.start()
    create_job(standin, "f", freestyle_xml("sleep 3", label="linux"))
    build(standin, "f")
    sidecar.until(lambda: sidecar.metric("agents", state="running") == 1, "the build runs")
    assert sidecar.stop() < 10
    assert len(nodes(standin)) == 1
    sidecar.start()
    sidecar.until(lambda: result(standin, "f") == "SUCCESS", "the build ends well")
    sidecar.until(lambda: not nodes(standin), "no node is left")


class Relay:
    """Passes a port on to the stand-in, from the moment it is entered."""

    def __init__(self, port: int, url: str) -> None:
        target = url.removeprefix("http://").rstrip("/")
        host, _, to = target.partition(":")
        code = (
            "import asyncio\n"
            "async def pump(r, w):\n"
            "    while data := await r.read(65536):\n"
            "        w.write(data); await w.drain()\n"
            "    w.close()\n"
            "async def serve(r, w):\n"
            f"    r2, w2 = await asyncio.open_connection('{host}', {to})\n"
            "    await asyncio.gather(pump(r, w2), pump(r2, w), return_exceptions=True)\n"
            "async def main():\n"
            f"    await (await asyncio.start_server(serve, '127.0.0.1', {port})).serve_forever()\n"
            "asyncio.run(main())\n"
        )
        self._command = [sys.executable, "-c", code]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
def test_the_console_of_a_build_that_cannot_start_tells_every_attempt(
    standin: StandinProcess, sidecar: SidecarProcess, tmp_path: Path, kind: str
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho last words; exit 3\n")
    java.chmod(0o755)
    sidecar.config["providers"][0]["java"] = str(java)
    sidecar.config["templates"][0]["retries"] = 1
    sidecar.write()
    sidecar.start()
    xml = {
        "freestyle": freestyle_xml("true", label="linux"),
        "pipeline": pipeline_xml("node('linux') { sh 'true' }"),
    }[kind]
    create_job(standin, "j", xml)
    build(standin, "j")
    sidecar.until(lambda: result(standin, "j"), "it ends")
    assert result(standin, "j") == ("NOT_BUILT" if kind == "freestyle" else "FAILURE")
    lines = ask(standin, "GET", "job/j/1/consoleText").text.splitlines()
    told = [line.removeprefix("[provisioner] ") for line in lines if line.startswith("[provisioner] ")]
    assert len([line for line in told if line.startswith("Launch failed: ") and line.endswith("(agent_exited)")]) == 2
    again = told.index("Trying again with a new agent")
    assert "(attempt 2)" in told[again + 1]
    assert told.count("    last words") == 2
    sidecar.until(lambda: sidecar.metric("agents") == 0, "no agent is left")


def test_a_build_that_runs_too_long_is_told_what_to_do(standin: StandinProcess, sidecar: SidecarProcess) -> None:
    sidecar.config["templates"][0]["timeouts"] = {"build": "1s"}
    sidecar.write()
    sidecar.start()
    create_job(standin, "j", freestyle_xml("sleep 60", label="linux"))
    build(standin, "j")
    sidecar.until(lambda: result(standin, "j") == "FAILURE", "it ends")
    console = ask(standin, "GET", "job/j/1/consoleText").text
    assert "[provisioner] The build ran longer than `timeouts.build`, 1 s (lifetime_exceeded)\n" in console
    assert "[provisioner] What to do: Raise `timeouts.build`" in console


def test_a_new_provider_and_its_template_are_taken_up_at_a_reload(
    standin: StandinProcess, sidecar: SidecarProcess
) -> None:
    sidecar.start()
    create_job(standin, "j", freestyle_xml("echo there", label="more"))
    build(standin, "j")
    more = {"name": "more", "backend": "process", "max_agents": 1, "java": standin.java}
    sidecar.config["providers"].append(more)
    sidecar.config["templates"].append({"name": "more", "labels": ["more"], "providers": ["more"]})
    sidecar.write()
    os.kill(sidecar.pid, signal.SIGHUP)
    sidecar.until(lambda: result(standin, "j") == "SUCCESS", "a build runs there")
    assert sidecar.metric("capacity", provider="more") == 1
    assert "more" in sidecar.ready()["providers"]
    assert "provider more" in json.loads(sidecar.get("/healthz")[1])["loops"]
    more["java"] = "/elsewhere/java"
    sidecar.write()
    os.kill(sidecar.pid, signal.SIGHUP)
    sidecar.until(lambda: sidecar.said("a restart is needed to change: provider more"), "a change is refused")
    sidecar.until(lambda: sidecar.metric("agents") == 0, "no agent is left")
