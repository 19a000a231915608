"""A throw-away real Jenkins on a loopback port, for tests and for trying things by hand.

    python jenkins-test/controller.py --home DIR --port N

prints address, user, token and process id, and stops the controller on Ctrl-C or SIGTERM.
The war and the plugins come from JENKINS_WAR and JENKINS_PLUGINS_DIR, else from the cache.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from xml.sax.saxutils import escape

CACHE = Path.home() / ".cache" / "jenkins-provisioner"
START_S = 180.0
#: For so long the last line of an ended build is waited for.
LAST_LINE_S = 10.0

#: Makes the account and its token once; a restart on the same home finds both.
SETUP = """
import hudson.model.User
import hudson.security.*
import hudson.security.csrf.DefaultCrumbIssuer
import jenkins.model.*
import jenkins.security.ApiTokenProperty
import java.nio.file.*
import java.nio.file.attribute.PosixFilePermissions

def jenkins = Jenkins.get()
def tokenFile = new File(jenkins.rootDir, 'admin.token')
if (tokenFile.exists()) return
def realm = new HudsonPrivateSecurityRealm(false, false, null)
jenkins.securityRealm = realm
realm.createAccount('admin', 'admin')
def strategy = new FullControlOnceLoggedInAuthorizationStrategy()
strategy.allowAnonymousRead = false
jenkins.authorizationStrategy = strategy
jenkins.crumbIssuer = new DefaultCrumbIssuer(false)
jenkins.numExecutors = 0
jenkins.slaveAgentPort = 0
JenkinsLocationConfiguration.get().url = System.getProperty('test.url')
jenkins.save()
def admin = User.getById('admin', true)
def token = admin.getProperty(ApiTokenProperty).tokenStore.generateNewToken('tests')
admin.save()
def owner = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString('rw-------'))
Files.createFile(tokenFile.toPath(), owner)
tokenFile.text = token.plainValue
"""


class NoController(Exception):  # noqa: N818  (it is a fact about the machine)
    """There is no war or no plugins here, or the controller did not come up."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A 302 is an answer of its own here: Jenkins says "done" with it."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back, whatever the status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.body)


def find_war() -> Path:
    war = Path(os.environ.get("JENKINS_WAR") or CACHE / "jenkins.war")
    if not war.is_file():
        raise NoController(f"no Jenkins war at {war}; set JENKINS_WAR")
    return war


def find_plugins() -> Path:
    plugins = Path(os.environ.get("JENKINS_PLUGINS_DIR") or CACHE / "plugins")
    if not any(plugins.glob("*.[jh]pi")):
        raise NoController(f"no Jenkins plugins in {plugins}; set JENKINS_PLUGINS_DIR")
    return plugins


def find_java() -> str:
    java = shutil.which("java")
    if java is None:
        raise NoController("no java on the PATH; Jenkins needs one")
    return java


def free_port() -> int:
    """One that the kernel gives to nobody: it is still free when its server starts, and when it starts again."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class RealController:
    """One controller process with a home of its own. `user` is its administrator."""

    def __init__(self, home: Path, *, port: int | None = None, java_options: tuple[str, ...] = ()) -> None:
        self.war = find_war()
        self.plugins = find_plugins()
        self.java = find_java()
        self.home = home
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.user = "admin"
        self.token = ""
        self._java_options = java_options
        self._process: subprocess.Popen[bytes] | None = None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    # -- the process

    @property
    def pid(self) -> int:
        if self._process is None:
            raise NoController("the controller is not running")
        return self._process.pid

    @property
    def log_file(self) -> Path:
        return self.home / "jenkins.log"

    def start(self) -> None:
        """Start it and wait until it answers; the same home may be started again."""
        self._lay_out()
        command = [
            self.java, "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
            "-Djenkins.install.runSetupWizard=false", "-Dhudson.model.UpdateCenter.never=true",
            "-Dhudson.DNSMultiCast.disabled=true", "-Dhudson.udp=-1",
            "-Djenkins.model.Jenkins.slaveAgentHost=127.0.0.1", f"-Dtest.url={self.url}",
            f"-Djava.io.tmpdir={self.home / 'tmp'}",
            *self._java_options, "-jar", str(self.war), f"--httpPort={self.port}",
            "--httpListenAddress=127.0.0.1",
        ]  # fmt: skip
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "JENKINS_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_up()

    def stop(self) -> None:
        """A clean end: the queue is saved, running Pipelines are suspended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """The end that nobody expects."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _lay_out(self) -> None:
        plugins = self.home / "plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        for plugin in self.plugins.glob("*.[jh]pi"):
            link = plugins / plugin.name
            if not link.exists():
                shutil.copy2(plugin, link)
        (self.home / "tmp").mkdir(exist_ok=True)  # Jetty and Winstone never clean up what they unpack
        init = self.home / "init.groovy.d"
        init.mkdir(exist_ok=True)
        (init / "00-setup.groovy").write_text(SETUP)

    def _wait_up(self) -> None:
        deadline = time.monotonic() + START_S
        token_file = self.home / "admin.token"
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise NoController(f"Jenkins ended during its start:\n{self.log_tail()}")
            if token_file.is_file() and (token := token_file.read_text().strip()):
                self.token = token
                try:
                    if self.request("GET", "api/json?tree=mode", timeout_s=10).status == 200:
                        return
                except OSError:
                    pass
            time.sleep(0.1)
        self.kill()
        raise NoController(f"Jenkins was not up after {START_S:.0f} s:\n{self.log_tail()}")

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(with_signal)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=30)

    def log_tail(self, lines: int = 40) -> str:
        if not self.log_file.is_file():
            return "(no log)"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    # -- HTTP

    def request(
        self,
        method: str,
        path: str,
        *,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        auth: tuple[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Answer:
        """Ask the controller; every status is an answer. `auth` is another account's name and token."""
        if form is not None:
            body = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.url + path, data=body, method=method)
        login = ":".join(auth or (self.user, self.token))
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        request.add_header("Accept-Language", "en")
        if content_type is not None:
            request.add_header("Content-Type", content_type)
        try:
            with self._opener.open(request, timeout=timeout_s) as reply:
                return Answer(status=reply.status, headers=dict(reply.headers), body=reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(status=error.code, headers=dict(error.headers), body=error.read())

    def get_json(self, path: str) -> Any:
        answer = self.request("GET", path)
        if answer.status != 200:
            raise AssertionError(f"GET {path}: {answer.status}\n{answer.text[:2000]}")
        return answer.json()

    def script(self, groovy: str, *, timeout_s: float = 120.0) -> str:
        """Run a script as the administrator; a stack trace in the answer is an error."""
        answer = self.request("POST", "scriptText", form={"script": groovy}, timeout_s=timeout_s)
        text = answer.text
        if answer.status != 200 or "\n\tat " in text or "startup failed:" in text:
            raise AssertionError(f"script: {answer.status}\n{text[:4000]}")
        return text.removesuffix("\n")

    # -- jobs and builds

    def create_job(self, name: str, xml: str) -> None:
        """Create it, or replace its configuration. `name` may be `folder/job`."""
        folder, _, leaf = name.rpartition("/")
        exists = self.request("GET", job_path(name) + "api/json?tree=name").status == 200
        path = (
            job_path(name) + "config.xml"
            if exists
            else (job_path(folder) if folder else "") + "createItem?" + urllib.parse.urlencode({"name": leaf})
        )
        answer = self.request("POST", path, body=xml.encode(), content_type="application/xml; charset=utf-8")
        if answer.status != 200:
            raise AssertionError(f"creating {name}: {answer.status}\n{answer.text[:2000]}")

    def delete_job(self, name: str) -> None:
        self.request("POST", job_path(name) + "doDelete")

    def queue_build(self, name: str, parameters: Mapping[str, str] | None = None) -> int:
        """Queue it without a quiet period; returns the queue id."""
        verb = "buildWithParameters" if parameters is not None else "build"
        answer = self.request("POST", f"{job_path(name)}{verb}?delay=0sec", form=dict(parameters or {}))
        if answer.status != 201:
            raise AssertionError(f"queueing {name}: {answer.status}\n{answer.text[:2000]}")
        return int(answer.headers["Location"].rstrip("/").rsplit("/", 1)[1])

    def queue_items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get_json("queue/api/json")["items"]
        return items

    def cancel(self, queue_id: int) -> int:
        return self.request("POST", f"queue/cancelItem?id={queue_id}").status

    def nodes(self) -> list[str]:
        """Every node's name but the built-in one's."""
        computers = self.get_json("computer/api/json?tree=computer[displayName,_class]")["computer"]
        return [c["displayName"] for c in computers if "MasterComputer" not in c["_class"]]

    def build(self, name: str, number: int | str = "lastBuild") -> dict[str, Any] | None:
        answer = self.request("GET", f"{job_path(name)}{number}/api/json")
        return answer.json() if answer.status == 200 else None

    def begun(self, name: str, number: int | str = "lastBuild") -> dict[str, Any]:
        """The record of a build that must have begun."""
        build = self.build(name, number)
        if build is None:
            raise AssertionError(f"{name} has no build {number}")
        return build

    def wait_build(self, name: str, number: int | str = 1, *, within_s: float = 180.0) -> dict[str, Any]:
        """The build's record as soon as it is complete, and its console with it.

        `result` may be set before the build ends, and the build ends before listeners have heard of it and the last
        line is written.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            build = self.build(name, number)
            if build is not None and not build["building"] and build["result"] is not None:
                self._await_last_line(name, build["number"])
                return self.build(name, build["number"]) or build
            time.sleep(0.1)
        raise AssertionError(
            f"{name} {number} did not end within {within_s} s; queue: {self.queue_items()}\n"
            f"{self.console(name, number)[-3000:]}\n{self.log_tail()}"
        )

    def _await_last_line(self, name: str, number: int) -> None:
        """Wait for the console's end, which a build that died with its controller never gets."""
        deadline = time.monotonic() + LAST_LINE_S
        while time.monotonic() < deadline and "\nFinished: " not in self.console(name, number):
            time.sleep(0.05)

    def console(self, name: str, number: int | str = 1) -> str:
        answer = self.request("GET", f"{job_path(name)}{number}/consoleText")
        return answer.text if answer.status == 200 else f"(no console: {answer.status})"


def job_path(name: str) -> str:
    """`a/b` as the controller's path, `job/a/job/b/`."""
    return "".join(f"job/{urllib.parse.quote(part, safe='')}/" for part in name.split("/"))


def freestyle_xml(shell: str = "true", *, label: str | None = None, parameters: Mapping[str, str] | None = None) -> str:
    """A freestyle job with one shell step; `parameters` are string parameters with their defaults."""
    where = (
        f"<assignedNode>{escape(label)}</assignedNode><canRoam>false</canRoam>"
        if label is not None
        else "<canRoam>true</canRoam>"
    )
    return (
        f"<project>{_properties(parameters)}{where}<disabled>false</disabled>"
        f"<concurrentBuild>false</concurrentBuild><builders><hudson.tasks.Shell>"
        f"<command>{escape(shell)}</command></hudson.tasks.Shell></builders><publishers/><buildWrappers/>"
        f"</project>"
    )


def pipeline_xml(script: str, *, parameters: Mapping[str, str] | None = None, sandbox: bool = True) -> str:
    """A Pipeline job with its script inside."""
    return (
        f"<flow-definition>{_properties(parameters)}"
        f'<definition class="org.jenkinsci.plugins.workflow.cps.CpsFlowDefinition">'
        f"<script>{escape(script)}</script><sandbox>{str(sandbox).lower()}</sandbox></definition>"
        f"</flow-definition>"
    )


def _properties(parameters: Mapping[str, str] | None) -> str:
    if not parameters:
        return "<properties/>"
    inner = "".join(
        f"<hudson.model.StringParameterDefinition><name>{escape(name)}</name>"
        f"<defaultValue>{escape(value)}</defaultValue><trim>false</trim>"
        f"</hudson.model.StringParameterDefinition>"
        for name, value in parameters.items()
    )
    return (
        f"<properties><hudson.model.ParametersDefinitionProperty><parameterDefinitions>{inner}"
        f"</parameterDefinitions></hudson.model.ParametersDefinitionProperty></properties>"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Start a throw-away Jenkins controller.")
    parser.add_argument("--home", type=Path, required=True, help="its home; made if it does not exist")
    parser.add_argument("--port", type=int, help="loopback port; default: a free one")
    options = parser.parse_args()
    try:
        controller = RealController(options.home.resolve(), port=options.port)
        began = time.monotonic()
        controller.start()
    except NoController as error:
        print(error, file=sys.stderr)
        return 1
    print(f"url={controller.url}\nuser={controller.user}\ntoken={controller.token}\npid={controller.pid}")
    print(f"seconds={time.monotonic() - began:.1f}", flush=True)

    def end(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        signal.pause()
    except KeyboardInterrupt:
        controller.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
