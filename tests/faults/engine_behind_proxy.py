"""The engine of this machine behind a socket of our own, so that it can hang or be down for one sidecar only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


class Engine:
    """The engine of this machine behind a socket of our own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "engine.sock"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.faults.engine_proxy", str(self.socket), ENGINE]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def fail(self, how: str) -> None:
        if how == "hangs":
            self.signal(signal.SIGSTOP)
        else:
            self.end()

    def mend(self, how: str) -> None:
        if how == "hangs":
            self.signal(signal.SIGCONT)
        else:
            self.start()
