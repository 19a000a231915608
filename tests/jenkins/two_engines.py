"""A real controller, a sidecar, and two real engines: this machine's, and one that is reached over TLS."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from controller import RealController

from tests.jenkins.owned_jobs import OwnedJobs
from tests.leaks import OWNER_LABEL
from tests.second_engine import SecondEngine
from tests.sidecar_process import SidecarProcess, free_port

#: A static busybox: the runtime comes from the provisioner, into either engine.
IMAGE = "jenkins-provisioner-test/busybox:latest"


class Door(threading.Thread):
    """A port that leads to the controller while it is open, and refuses everyone while it is shut."""

    def __init__(self, to_port: int, host: str = "127.0.0.1") -> None:
        super().__init__(daemon=True)
        self.port = free_port()
        self._host = host
        self._to = to_port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}/"

    def open(self) -> None:
        program = (
            "import asyncio, sys\n"
            "async def pump(r, w):\n"
            "    try:\n"
            "        while data := await r.read(65536):\n"
            "            w.write(data); await w.drain()\n"
            "    except OSError: pass\n"
            "    finally: w.close()\n"
            "async def serve(r, w):\n"
            "    back = await asyncio.open_connection('127.0.0.1', int(sys.argv[2]))\n"
            "    await asyncio.gather(pump(r, back[1]), pump(back[0], w))\n"
            "async def main():\n"
            "    async with await asyncio.start_server(serve, sys.argv[3], int(sys.argv[1])) as s:\n"
            "        await s.serve_forever()\n"
            "asyncio.run(main())\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(self.port), str(self._to), self._host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def shut(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(timeout=10)


class TwoEngines(OwnedJobs):
    """One sidecar with the providers `here` and `there`, and what is seen of both by other eyes."""

    def __init__(
        self, jenkins: RealController, engine: docker.DockerClient, second: SecondEngine, folder: Path, owner: str
    ) -> None:
        super().__init__(jenkins, owner)
        self.clients = {"here": engine.api, "there": second.client()}
        self.second = second
        self.folder = folder
        self.sidecar: SidecarProcess

    def start(
        self,
        *,
        here: dict[str, Any] | None = None,
        there: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        **template: Any,
    ) -> SidecarProcess:
        one = {"backend": "docker", "network": "host", "max_agents": 4}
        config = {
            "id": self.owner,
            "limits": limits or {},
            "controllers": [
                {"name": "main", "url": self.jenkins.url, "user": self.jenkins.user, "token": {"env": "JENKINS_TOKEN"}}
            ],
            "providers": [
                {"name": "here", **one, **(here or {})},
                {"name": "there", **one, "endpoint": self.second.tls_endpoint, "tls": self.second.files(),
                 **(there or {})},
            ],
            "templates": [
                {"name": "one", "labels": [self.owner], "providers": ["here", "there"], "image": IMAGE,
                 "java": "injected", "pull": "never", **template}
            ],
        }  # fmt: skip
        self.sidecar = SidecarProcess(self.folder, config, token=self.jenkins.token)
        self.sidecar.start()
        self.sidecar.until(lambda: all(p["up"] for p in self.api("providers")["providers"]), "both answer")
        self.sidecar.until(
            lambda: self.api("controllers")["controllers"][0]["up"], "the controller answers", within_s=120
        )
        return self.sidecar

    def api(self, path: str, method: str = "GET") -> Any:
        token = (self.folder / "state" / "token").read_text().strip()
        answer = requests.request(
            method,
            f"http://127.0.0.1:{self.sidecar.port}/api/v1/{path}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        )
        assert answer.ok, answer.text
        return answer.json()

    def paused(self, provider: str) -> list[dict[str, Any]]:
        """The templates that the provider gets no agents of, for launches failed."""
        return next(list(p["templates_paused"]) for p in self.api("providers")["providers"] if p["name"] == provider)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = self.sidecar.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if f'"event": "{event}"' in line]

    def containers(self, where: str, *, every: bool = True) -> list[str]:
        mark = {"label": f"{OWNER_LABEL}={self.owner}"}
        return [c["Names"][0][1:] for c in self.clients[where].containers(all=every, filters=mark)]

    def let_go(self) -> bool:
        """Have all builds end that run now and whose shell is `WAITS`; whether nothing runs any more."""
        for where, client in self.clients.items():
            for name in self.containers(where, every=False):
                with contextlib.suppress(docker.errors.APIError):  # it has ended meanwhile
                    client.exec_start(client.exec_create(name, ["touch", "/tmp/go"])["Id"])
        return not self.sidecar.metric("requests") and not self.sidecar.metric("agents")

    def provider_of(self, job: str, number: int = 1) -> str:
        console: str = self.jenkins.console(job, number)
        found = [line for line in console.splitlines() if "serves this build with the agent" in line]
        assert found, console
        return found[-1].split(" on provider ")[1].split()[0]

    def left(self) -> dict[str, list[str]]:
        mark = {"label": f"{OWNER_LABEL}={self.owner}"}
        left = {"nodes": self.nodes()}
        for where, client in self.clients.items():
            left[f"containers {where}"] = self.containers(where)
            left[f"volumes {where}"] = [v["Name"] for v in client.volumes(filters=mark)["Volumes"] or []]
        return left

    def nothing_left(self, *, within_s: float = 60.0) -> None:
        self.sidecar.until(lambda: not any(self.left().values()), "nothing is left", within_s=within_s)

    @contextmanager
    def watched(self) -> Iterator[dict[str, int]]:
        """The most containers that ever ran on each engine, looked at all the time."""
        most = dict.fromkeys(self.clients, 0)
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                for where in most:
                    most[where] = max(most[where], len(self.containers(where)))
                time.sleep(0.05)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield most
        finally:
            stop.set()
            thread.join()

    def end(self) -> None:
        self.end_jobs()
        if hasattr(self, "sidecar"):
            self.sidecar.stop()
        for where, client in self.clients.items():
            for name in self.containers(where):
                client.remove_container(name, force=True, v=True)
        self.clients["there"].close()
