"""A sidecar as its users run it: `provisioner run` in a process of its own, killed and started at will."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

Found = TypeVar("Found")


def free_port() -> int:
    """One that the kernel gives to nobody: it is still free when its server starts, and when it starts again."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class SidecarProcess:
    """Starts, kills and asks one sidecar; the same state file lives through all its processes."""

    patience_s = 20.0

    def __init__(self, folder: Path, config: dict[str, Any], *, token: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.config_file = folder / "provisioner.yaml"
        self.log_file = folder / "sidecar.log"
        self.config = {
            "state": str(folder / "state" / "state.db"),
            "http": {"listen": f"127.0.0.1:{self.port}"},
            **config,
        }
        self.write()
        self._token = token
        self._process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        self.config_file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    @property
    def runs(self) -> bool:
        """Whether it was started and not ended by us."""
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, ready: bool = True) -> None:
        env = {**os.environ, "JENKINS_TOKEN": self._token, "JENKINS_PROVISIONER_TEST": "1"}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "provisioner", "run", "-c", str(self.config_file), "--log-level", "debug"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # a controller that has just started takes long to compile its first script, of which the bridge is often that
        self.until(lambda: self._answers("/readyz" if ready else "/healthz"), "the sidecar is ready", within_s=180)

    def stop(self) -> float:
        """SIGTERM; the seconds it took."""
        began = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - began

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
            raise AssertionError(f"the sidecar did not end within 20 s of {number.name}\n{self.log()}") from None

    def verb(self, *words: str, status: int = 0) -> str:
        """What a verb of the command line prints, with this sidecar's configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "provisioner", *words, "-c", str(self.config_file)],
            env={**os.environ, "JENKINS_TOKEN": self._token},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == status, done
        return done.stdout

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=self.patience_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of that name that carry these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            fits = all(f'{k}="{v}"' in series for k, v in labels.items())
            if series.partition("{")[0] == f"jenkins_provisioner_{name}" and fits:
                total += float(value)
        return total

    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/readyz")[1])
        return found

    def _answers(self, path: str) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"the sidecar ended with {self._process.returncode}\n{self.log()}")
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False

    def said(self, words: str) -> bool:
        """Whether its whole log has these words; the end of it may have gone on."""
        return self.log_file.exists() and words in self.log_file.read_text(errors="replace")

    def log(self, lines: int = 60) -> str:
        if not self.log_file.exists():
            return "(no log)"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def until(self, true: Callable[[], Found], what: str, *, within_s: float = 60.0) -> Found:
        """Ask until the answer is true; the answer."""
        deadline = time.monotonic() + within_s
        while not (found := true()):
            if time.monotonic() > deadline:
                raise AssertionError(f"never so within {within_s:.0f} s: {what}\n{self.log()}")
            time.sleep(0.05)
        return found
