"""The demo as a program: what it shows, what it says with its exit status, and that nothing of it stays."""

from __future__ import annotations

import io
import os
import pty
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest
from demo.jobs import Job
from demo.report import Left, Outcome
from demo.screen import Screen, Style

from provisioner.commands import demo as verb
from provisioner.commands.main import FAILED, main

ROOT = Path(__file__).resolve().parents[2]
_SEED = random.Random(20)
#: One in each third of a run, on a machine that is not busy.
MOMENTS = [round(begin + _SEED.uniform(0.0, 2.0), 2) for begin in (0.0, 2.0, 4.0)]
PATIENCE_S = 120.0


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    """Every process of the demo has this folder in its environment, agents too."""
    dropped = ("BACKEND", "JENKINS_WAR", "DEMO_IMAGE", "NO_COLOR")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "TMPDIR": str(tmp_path), **changes}


def start(tmp_path: Path, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "provisioner", "demo"],
        cwd=ROOT,
        env=environment(tmp_path, **changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=PATIENCE_S)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        output = process.communicate(timeout=30)[0]
        raise AssertionError(f"the demo did not end within {PATIENCE_S:.0f} s\n{output}") from None


def nothing_is_left(tmp_path: Path, output: str) -> None:
    mark = str(tmp_path).encode()
    running = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                running.append((entry.name, (entry / "cmdline").read_bytes().replace(b"\0", b" ")))
        except OSError:
            continue
    assert running == [], output
    assert list(tmp_path.iterdir()) == [], output
    told = re.search(r"^  ports .*?((?:\d+, )*\d+)\s+(?:✓|ok)$", output, re.MULTILINE)
    for port in told[1].split(", ") if told else ():
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", int(port))) != 0, f"port {port} is still open\n{output}"


def test_shows_every_build_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    for text in (
        "hello #1: SUCCESS",
        "greet #1: SUCCESS",
        "pipeline #1: SUCCESS",
        "broken #1: NOT_BUILT",
        "Good morning, Ada!",
        "[provisioner] Launch failed: ",
        "(create_rejected)",
        "unit tests on demo-",
        "registered  started  connected  build taken",
        "Every build ended as it should and nothing is left behind",
    ):
        assert text in output
    agents = set(re.findall(r"^  (demo-[a-z2-7]{13}) ", output, re.MULTILINE))
    assert len(agents) == 5, output
    for agent in agents:
        assert re.search(rf"^.*\[provisioner\] .*{agent}", output, re.MULTILINE), f"{agent} has no launch log\n{output}"
    assert re.search(r"^  ports +none +\d+, \d+, \d+", output, re.MULTILINE), output
    assert "\x1b" not in output
    assert "\r" not in output
    nothing_is_left(tmp_path, output)


@pytest.mark.parametrize("moment_s", MOMENTS)
def test_interrupted_at_any_moment_it_leaves_nothing(tmp_path: Path, moment_s: float) -> None:
    process = start(tmp_path)
    try:
        process.wait(moment_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    output = finish(process)
    if "Left behind" in output:  # else it had not begun
        assert process.returncode in (0, 130), output
        assert "nothing is left behind" in output
    nothing_is_left(tmp_path, output)


def test_ended_by_sigterm_while_agents_run_it_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "connected after" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # the impatient must not make it leave things either
    output = "".join(seen) + finish(process)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Interrupted after" in output
    nothing_is_left(tmp_path, output)


def test_when_nobody_reads_any_more_it_fails_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 1
    nothing_is_left(tmp_path, first)


def test_ctrl_c_on_a_terminal_ends_it_in_order(tmp_path: Path) -> None:
    terminal, its_end = pty.openpty()
    # the first terminal that the leader of a session opens becomes the one whose Ctrl-C it gets
    script = 'exec "$0" -m provisioner demo < "$TTY" > "$TTY" 2>&1'
    process = subprocess.Popen(
        ["sh", "-c", script, sys.executable],
        cwd=ROOT,
        env=environment(tmp_path, TERM="xterm", COLUMNS="90", TTY=os.ttyname(its_end)),
        start_new_session=True,
    )
    data, pressed, ended = b"", False, False
    deadline = time.monotonic() + PATIENCE_S
    while not ended and time.monotonic() < deadline:
        ended = process.poll() is not None
        while select.select([terminal], [], [], 0.2)[0]:
            data += os.read(terminal, 65536)
            if not pressed and b"in the queue:" in data:
                os.write(terminal, b"\x03")
                pressed = True
    if not ended:
        process.terminate()
    output = data.decode()
    assert process.wait(30) == 130, output
    os.close(terminal)
    os.close(its_end)
    assert pressed, output
    assert "\x1b[32m" in output  # green
    assert "\x1b[K" in output  # the line that lives
    nothing_is_left(tmp_path, re.sub(r"\x1b\[[0-9;]*[mK]", "", output).replace("\r\n", "\n"))


@pytest.mark.docker
@pytest.mark.parametrize("interrupted", [False, True])
def test_with_containers_it_leaves_nothing_on_the_engine(tmp_path: Path, interrupted: bool) -> None:
    process = start(tmp_path, BACKEND="docker")
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if interrupted and "connected after" in line:
            process.send_signal(signal.SIGINT)
            break
    output = "".join(seen) + finish(process)
    assert process.returncode == (130 if interrupted else 0), output
    demo = re.search(r"containers, volumes and networks of (demo-[0-9a-f]{8})", output)
    assert demo, output
    client = docker.APIClient(version="auto", timeout=30)
    try:
        own = {"label": f"jenkins-provisioner.owner={demo[1]}"}
        assert client.containers(all=True, filters=own) == []
        assert not client.volumes(filters=own)["Volumes"]
        assert client.images(name="jenkins-provisioner-demo", filters=own) == []
    finally:
        client.close()
    nothing_is_left(tmp_path, output)


def test_without_an_engine_it_says_what_to_do_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, BACKEND="docker", DOCKER_HOST=f"unix://{tmp_path}/no-engine.sock")
    output = finish(process)
    assert process.returncode == 1, output
    assert f"no Docker engine answers at unix://{tmp_path}/no-engine.sock" in output
    assert "run the demo without BACKEND=docker" in output
    nothing_is_left(tmp_path, output)


def test_an_unknown_backend_is_wrong_usage(tmp_path: Path) -> None:
    process = start(tmp_path, BACKEND="podman")
    output = finish(process)
    assert process.returncode == 2, output
    assert "BACKEND is 'podman'; it can be process or docker" in output
    nothing_is_left(tmp_path, output)


def test_an_installed_package_says_where_the_demo_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verb, "_PROGRAM", tmp_path / "jenkins-test" / "demo")
    assert main(["demo"]) == FAILED
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "make demo" in told


JOB = Job(name="one", xml="", result="SUCCESS", agents=1, console=("hello",))
GOOD = "[provisioner] agent demo-a connected\nhello\nFinished: SUCCESS\n"


@pytest.mark.parametrize(
    ("result", "console", "agents", "problem"),
    [
        ("FAILURE", GOOD, ["demo-a"], "one #1 ended FAILURE instead of SUCCESS"),
        ("SUCCESS", "hello\n", ["demo-a"], "one #1 has no launch log in its console"),
        ("SUCCESS", GOOD, ["demo-b"], "one #1 has no launch log of demo-b in its console"),
        ("SUCCESS", GOOD, [], "one #1 ran on 0 agents instead of 1"),
        ("SUCCESS", GOOD.replace("hello", ""), ["demo-a"], "one #1 has no 'hello' in its console"),
    ],
)
def test_a_build_that_is_not_as_expected_is_a_problem(
    result: str, console: str, agents: list[str], problem: str
) -> None:
    assert Outcome(job=JOB, result="SUCCESS", console=GOOD, agents=["demo-a"]).problems() == []
    assert problem in Outcome(job=JOB, result=result, console=console, agents=agents).problems()


def test_what_is_left_is_a_problem_and_what_nobody_looked_for_is_not() -> None:
    assert Left(kind="ports", where="", things=["8080"]).problem == "ports left behind: 8080"
    assert Left(kind="nodes", where="", things=[]).problem is None
    assert Left(kind="nodes", where="", things=None).problem is None


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_no_color_takes_the_colours_and_leaves_the_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    screen = Screen(stream)
    screen.live("at work")
    screen.line("done", Style.GOOD)
    assert "at work" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[Kdone\n")
    assert not re.search(r"\x1b\[[0-9;]*m", stream.getvalue())


def test_a_narrow_terminal_cuts_the_first_column_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    plain = Style.PLAIN
    Screen(stream).table(["agent", "build"], [[("demo-" + "x" * 40, plain), ("a build of nineteen", plain)]])
    row = stream.getvalue().splitlines()[-1]
    assert len(row) <= 40
    assert row.endswith("…  a build of nineteen")
