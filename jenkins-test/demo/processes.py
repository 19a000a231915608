"""The demo's children, each in a session of its own, and everything that carries its mark."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.interrupts import DemoError
from provisioner.backends.process import proc
from provisioner.backends.process.proc import OWNER_VARIABLE, ProcessId

#: In the environment of every child; its value is the demo's id. Agents carry that id as their owner's.
DEMO_VARIABLE = "JENKINS_PROVISIONER_DEMO"
TEST_VARIABLE = "JENKINS_PROVISIONER_TEST"
_TAIL_LINES = 15
_KILL_S = 10.0


def environment(demo: str, scratch: Path) -> dict[str, str]:
    """What every child inherits; `scratch` takes the temporary files of them all, Java's too."""
    return {
        **os.environ,
        DEMO_VARIABLE: demo,
        TEST_VARIABLE: os.environ.get(TEST_VARIABLE) or "1",
        "TMPDIR": str(scratch),
        "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={scratch} -XX:-UsePerfData",
    }


class Child:
    """One program of the demo; its output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name.replace(' ', '-')}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is the demo's alone
            )

    def check(self) -> None:
        """Raises DemoError if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"the {self.name} ended by itself with status {code}; its last lines:\n{self.tail()}")

    def tail(self) -> str:
        """Its last lines of output."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it said nothing)"

    def end(self, *, patience_s: float) -> int:
        """SIGTERM, then SIGKILL; its exit status. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """A living process with the demo's mark."""

    id: ProcessId
    command: str


def marked(demo: str) -> list[Marked]:
    """Every living process of the demo but this one."""
    marks = {f"{DEMO_VARIABLE}={demo}".encode(), f"{OWNER_VARIABLE}={demo}".encode()}
    found = []
    for process in proc.everyone():
        if process.id.pid == os.getpid():
            continue
        folder = Path("/proc") / str(process.id.pid)
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # gone meanwhile, or another user's
            continue
        if not marks.isdisjoint(variables):
            found.append(Marked(id=process.id, command=command))
    return found


def end_marked(demo: str) -> list[Marked]:
    """SIGKILL to all of them, until none is left; those that stay nevertheless."""
    deadline = time.monotonic() + _KILL_S
    quiet = 0
    # two looks in a row: one that is just being forked is seen by the second
    while quiet < 2:
        left = marked(demo)
        quiet = 0 if left else quiet + 1
        if left and time.monotonic() > deadline:
            return left
        for one in left:
            seen = proc.look(one.id.pid)
            if seen is not None and seen.id == one.id:
                try:
                    os.kill(one.id.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.02)
    return []
