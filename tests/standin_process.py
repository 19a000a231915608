"""The stand-in as a program of its own, with the same ways to ask it as a real controller has in tests."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pytest
from controller import Answer, NoController, RealController

FOLDER = Path(__file__).parents[1] / "jenkins-test"
STANDIN = FOLDER / "standin"


class Asked(Protocol):
    """A controller that tests can talk to."""

    url: str
    user: str
    token: str
    java: str


def ask(
    controller: Asked,
    method: str,
    path: str,
    *,
    auth: str | None = "token",
    body: bytes | str | None = None,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Answer:
    """One request, no redirect followed. `auth`: token, password, bad, or None for nobody."""
    place = urllib.parse.urlsplit(controller.url)
    conn = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout_s)
    sent = {"Accept-Language": "en", **(headers or {})}
    words = {"token": controller.token, "password": "admin", "bad": "wrong"}
    if auth in words:
        login = f"{controller.user}:{words[auth]}".encode()
        sent["Authorization"] = "Basic " + base64.b64encode(login).decode()
    if form is not None:
        body = urllib.parse.urlencode(form)
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    if isinstance(body, str):
        body = body.encode()
    try:
        conn.request(method, "/" + path.lstrip("/"), body=body, headers=sent)
        reply = conn.getresponse()
        return Answer(status=reply.status, headers=dict(reply.getheaders()), body=reply.read())
    finally:
        conn.close()


def eventually(check: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
    """Ask until the answer is true; the last answer is in the failure."""
    deadline = time.monotonic() + within_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:.0f} s: {what}; last: {found!r}")
        time.sleep(0.02)


class StandinProcess:
    """One stand-in controller; use it as a context manager."""

    java = str(STANDIN / "java")

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.url = self.user = self.token = ""
        self.agent_port = 0

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(STANDIN), *self._options], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the stand-in ended with {self._process.wait(10)}")
        ready = json.loads(line)
        self.url, self.user, self.token = ready["url"], ready["user"], ready["token"]
        self.agent_port = ready["agent_port"]

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            if process.stdout:
                process.stdout.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def knobs(self, **values: Any) -> dict[str, Any]:
        reply = ask(self, "POST", "standin/knobs", body=json.dumps(values))
        assert reply.status == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def restart(self, **values: Any) -> str:
        reply = ask(self, "POST", "standin/restart", body=json.dumps(values))
        assert reply.status == 200, reply.text
        return str(reply.json()["session"])

    def reset(self) -> None:
        """As at the start, in a new session."""
        assert ask(self, "POST", "standin/reset").status == 200

    def scale(self, **values: Any) -> dict[str, Any]:
        reply = ask(self, "POST", "standin/scale", body=json.dumps(values))
        assert reply.status == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = ask(self, "GET", "standin/state").json()
        return found


def secret_of(controller: Asked, name: str) -> str:
    text = ask(controller, "GET", f"computer/{name}/jenkins-agent.jnlp").text
    found = re.search(r"<argument>([0-9a-f]{64})</argument>", text)
    assert found, text
    return found[1]


class AgentProcess:
    """An agent started by hand, the way that agent.jar is."""

    def __init__(self, controller: Asked, name: str, folder: Path, *extra: str, secret: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        jar = folder / "agent.jar"
        if not jar.exists():
            jar.write_bytes(ask(controller, "GET", "jnlpJars/agent.jar", auth=None).body)
        secret_file = folder / f"{name}.secret"
        secret_file.touch(mode=0o600)
        secret_file.write_text(secret or secret_of(controller, name))
        self.log = folder / f"{name}.log"
        transport = () if "-tcp" in extra else ("-webSocket",)
        rest = tuple(x for x in extra if x != "-tcp")
        command = [controller.java, "-Xmx64m", "-jar", str(jar), "-url", controller.url, "-secret", f"@{secret_file}"]
        command += ["-name", name, "-workDir", str(folder / name), *transport, *rest]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, within_s: float = 20.0) -> int:
        return self.process.wait(within_s)

    def kill(self) -> None:
        """The agent alone; what it started lives on."""
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        """The agent and all that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            self.process.wait(10)


class Agents:
    """Agents of one test, ended with it."""

    def __init__(self, controller: Asked, folder: Path) -> None:
        self.controller = controller
        self.folder = folder
        self.started: list[AgentProcess] = []

    def start(self, name: str, *extra: str, secret: str | None = None) -> AgentProcess:
        agent = AgentProcess(self.controller, name, self.folder, *extra, secret=secret)
        self.started.append(agent)
        return agent

    def end(self) -> None:
        for agent in self.started:
            agent.end()


@contextmanager
def real_controller(home: Path, **options: Any) -> Iterator[RealController]:
    """A running `RealController` for the time of the block; where there is no Jenkins the test is skipped."""
    try:
        real = RealController(home, **options)
        real.start()
    except NoController as error:
        pytest.skip(f"no real Jenkins here: {error}")
    try:
        yield real
    finally:
        real.stop()


class StandinController(RealController):
    """A stand-in behind the very methods by which tests ask a real controller."""

    def __init__(self, *options: str) -> None:
        self.process = StandinProcess(*options)
        self.home = Path("/nonexistent")  # it keeps everything in memory
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)

    def start(self) -> None:
        self.process.start()
        self.url, self.user, self.token = self.process.url, self.process.user, self.process.token
        self.java = self.process.java

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        self.process.restart()

    def kill(self) -> None:
        self.process.restart(crash=True)

    def log_tail(self, lines: int = 40) -> str:
        return json.dumps(self.process.state(), indent=1)[-80 * lines :]


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A 302 is an answer of its own here."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None
