"""The demo's controller: started as a child, and asked over its API as any client would."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller import job_path

from demo.interrupts import DemoError
from demo.processes import Child

_HERE = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Where a controller is, and who we are there."""

    url: str
    user: str
    token: str

    @property
    def port(self) -> int:
        """Of its web pages."""
        return urllib.parse.urlsplit(self.url).port or 80


class StandIn:
    """The controller of `jenkins-test/standin`: no Java, there at once."""

    title = "stand-in controller"
    start_s = 30.0

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._ready = folder / "controller.json"
        command = [sys.executable, str(_HERE / "standin"), "--port", "0", "--ready-file", str(self._ready)]
        self.child = Child(self.title, command, env=env, folder=folder)

    def access(self) -> Access | None:
        """Its address, as soon as it answers."""
        text = self._ready.read_text() if self._ready.exists() else ""
        if not text.endswith("\n"):
            return None
        found = json.loads(text)
        return Access(url=found["url"], user=found["user"], token=found["token"])


class RealJenkins:
    """A throw-away Jenkins by `jenkins-test/controller.py`: the war of JENKINS_WAR, or the one in the cache."""

    title = "real controller"
    start_s = 240.0

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        command = [sys.executable, str(_HERE / "controller.py"), "--home", str(folder / "jenkins")]
        self.child = Child(self.title, command, env=env, folder=folder)

    def access(self) -> Access | None:
        """Its address, as soon as it answers."""
        lines = self.child.log.read_text(errors="replace").splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        if "seconds" not in found:  # the last one it prints
            return None
        return Access(url=found["url"], user=found["user"], token=found["token"])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class Client:
    """A few questions to a controller. Raises DemoError where it does not answer them."""

    def __init__(self, access: Access) -> None:
        self._url = access.url
        login = base64.b64encode(f"{access.user}:{access.token}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def create_job(self, name: str, xml: str) -> None:
        """A new job."""
        path = f"createItem?{urllib.parse.urlencode({'name': name})}"
        self._expect(200, "POST", path, xml.encode(), {"Content-Type": "application/xml; charset=utf-8"})

    def queue(self, name: str, parameters: Mapping[str, str]) -> None:
        """Queue one build, without a quiet period."""
        path = f"{job_path(name)}{'buildWithParameters' if parameters else 'build'}?delay=0sec"
        self._expect(201, "POST", path, urllib.parse.urlencode(parameters).encode())

    def result(self, name: str) -> str | None:
        """How its first build ended; None while there is none, or it runs."""
        status, _, body = self._ask("GET", f"{job_path(name)}1/api/json?tree=building,result")
        found = json.loads(body) if status == 200 else {}
        return found.get("result") if not found.get("building", True) else None

    def console(self, name: str) -> str:
        """The console of its first build."""
        return self._expect(200, "GET", f"{job_path(name)}1/consoleText").decode(errors="replace")

    def nodes(self) -> list[str]:
        """Every node but the controller's own."""
        found = json.loads(self._expect(200, "GET", "computer/api/json?tree=computer[displayName,_class]"))
        return [one["displayName"] for one in found["computer"] if "MasterComputer" not in one["_class"]]

    def waiting(self) -> int:
        """How many items are in the queue."""
        return len(json.loads(self._expect(200, "GET", "queue/api/json?tree=items[id]"))["items"])

    def agent_port(self) -> int | None:
        """Where agents connect over TCP; None if it is closed."""
        _, headers, _ = self._ask("GET", "tcpSlaveAgentListener/")
        port = headers.get("X-Jenkins-JNLP-Port", "")
        return int(port) if port.isdigit() else None

    def _expect(self, wanted: int, method: str, path: str, body: bytes | None = None, headers: Any = None) -> bytes:
        status, _, answer = self._ask(method, path, body, headers)
        if status != wanted:
            raise DemoError(f"{method} {self._url}{path} answered {status}: {answer[:300].decode(errors='replace')}")
        return answer

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        request = urllib.request.Request(
            self._url + path, data=body, method=method, headers={**self._headers, **(headers or {})}
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                return reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"{method} {self._url}{path}: no answer ({error})") from error


def answers(port: int) -> bool:
    """Whether somebody listens at a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
