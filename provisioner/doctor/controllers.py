"""One controller over HTTP: version, account, permissions, bridge, agent port, time, settings. Changes nothing."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from typing import Any

from provisioner.config import BridgeChoice, Controller, Settings, TransportKind
from provisioner.controller.agent_port import agent_port
from provisioner.controller.bridge_script import content
from provisioner.controller.rest import Answer, Rest
from provisioner.controller.script_console import MARK, said
from provisioner.doctor.dialling import examine_dialling
from provisioner.doctor.findings import Findings
from provisioner.model.errors import ControllerError

#: The oldest release on which all of it was tried, and the oldest that has agents over WebSocket.
_TRIED, _WEBSOCKET = (2, 460), (2, 217)
_SKEW_WARN_S, _SKEW_FAIL_S = 5.0, 300.0
#: Proxies in front of controllers commonly cut off what is silent for a minute.
_PROXY_S = 60
_LOOK_S = 10.0
_PINGS = f"""
def read = {{ name, standard -> System.getProperty(name) ?: standard }}
println '{MARK}' + [
    read('hudson.slaves.ChannelPinger.pingIntervalSeconds', '300'),
    read('hudson.slaves.ChannelPinger.pingTimeoutSeconds', '240'),
    read('jenkins.websocket.pingInterval', '30'),
].join(' ')
"""
#: What each page needs that is asked for.
_ADMINISTER, _CREATE = "script", "computer/new"
_PLAIN = "Job/Read, Job/Cancel, Agent/Create, Agent/Connect, Agent/Disconnect, Agent/Delete, Run/Update"
_FIXES = {
    0: "check `url`, the name server, the firewall, and that Jenkins runs there",
    401: "make an API token for that account and put it where `token` says",
    403: "give the account Overall/Read",
    404: "check the path of `url`, such as /jenkins/",
    503: "wait until it is up",
}


class ControllerCheck:
    """The checks of one controller, in their order.

    Args:
        settings: the configuration.
        controller: which one.
        rest: the same, to be asked.
    """

    def __init__(self, settings: Settings, controller: Controller, rest: Rest) -> None:
        self._settings = settings
        self._controller = controller
        self._http = rest
        self.findings = Findings(f"controller {controller.name}", [])
        self.reached = False
        self.administers = False
        self.may_create = False
        self.has_init_bridge = False

    def run(self) -> Findings:
        """Try everything that can be tried over HTTP."""
        answer = self._reach()
        if answer is None:
            return self.findings
        self.reached = True
        self._version(answer)
        self._session(answer)
        self._clock(answer)
        self._account()
        self._bridge()
        self._permissions()
        self._jobs()
        self._agent_url()
        self._agent_port()
        self._pings(answer)
        examine_dialling(self._settings, self._controller.name, self._http, self.findings, administers=self.administers)
        return self.findings

    def _get(self, path: str, **options: Any) -> Answer | None:
        """None: it was refused."""
        try:
            return self._http.call("GET", path, op="doctor", **options)
        except ControllerError as error:
            if error.code in {401, 403, 404}:
                return None
            raise

    def _reach(self) -> Answer | None:
        began_s = time.monotonic()
        try:
            answer = self._http.call("GET", "api/json?tree=mode,quietingDown", op="doctor")
            body = self._http.parsed(answer, "api/json")
        except ControllerError as error:
            self.findings.fail("reach", error.message, _FIXES.get(error.code, "look into the controller's log"))
            return None
        took_ms = (time.monotonic() - began_s) * 1000
        self.findings.ok("reach", f"{self._http.url} answers in {took_ms:.0f} ms")
        if body.get("quietingDown"):
            self.findings.warn("quiet down", "it prepares for a shutdown and begins no build", "cancel the shutdown")
        return answer

    def _version(self, answer: Answer) -> None:
        version = answer.headers.get("X-Jenkins", "")
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if not found:
            text = f"what answers does not say that it is a Jenkins (server: {answer.headers.get('Server', 'untold')})"
            self.findings.fail("version", text, "check `url`; a proxy must let the header X-Jenkins through")
        elif found < _WEBSOCKET:
            self.findings.fail("version", f"Jenkins {version} has no agents over WebSocket", "update Jenkins")
        elif found < _TRIED:
            self.findings.warn(
                "version", f"Jenkins {version}", "all of it was tried on 2.460 and newer; update Jenkins"
            )
        else:
            self.findings.ok("version", f"Jenkins {version}")

    def _session(self, answer: Answer) -> None:
        if answer.headers.get("X-Jenkins-Session"):
            self.findings.ok("session", "the header X-Jenkins-Session is there: restarts are noticed")
        else:
            text = "there is no header X-Jenkins-Session: restarts of the controller are not noticed"
            self.findings.fail("session", text, "let the proxy in front of Jenkins pass its headers on")

    def _clock(self, answer: Answer) -> None:
        try:
            theirs_s = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (KeyError, ValueError):
            self.findings.warn("clock", "it does not tell its time", "let the proxy pass the header Date on")
            return
        skew_s = theirs_s - time.time()
        text = f"its clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} ours"
        fix = "let both machines follow a time server"
        if abs(skew_s) > _SKEW_FAIL_S:
            self.findings.fail("clock", text, fix)
        elif abs(skew_s) > _SKEW_WARN_S:
            self.findings.warn("clock", text, fix)
        else:
            self.findings.ok("clock", "its clock and ours agree")

    def _account(self) -> None:
        answer = self._get("me/api/json?tree=id")
        user = str(self._http.parsed(answer, "me/").get("id")) if answer is not None else "anonymous"
        if user == self._controller.user:
            self.findings.ok("account", f"logged in as {user}")
        elif user == "anonymous":
            text = "the login is not used: everybody may read here, and we are nobody"
            self.findings.fail(
                "account", text, "check `user` and `token`; a proxy may take the Authorization header away"
            )
        else:
            self.findings.warn(
                "account", f"logged in as {user}, configured is {self._controller.user}", "write that name"
            )

    def _bridge(self) -> None:
        self.administers = self._get(_ADMINISTER) is not None
        status = self._get("provisioner-bridge/status")
        told = self._http.parsed(status, "provisioner-bridge/") if status is not None else {}
        mode = str(told.get("mode", ""))
        self.has_init_bridge = mode == BridgeChoice.INIT.value
        wanted = self._controller.bridge
        by_file = "put the output of `provisioner bridge print` into init.groovy.d, and restart Jenkins"
        if wanted is BridgeChoice.OFF:
            self.findings.ok("bridge", "off, as the configuration says: plain REST")
        elif self.has_init_bridge and told.get("content") not in (None, content()):
            self.findings.warn(
                "bridge", "there, from init.groovy.d, but of another release", f"print it again: {by_file}"
            )
        elif self.has_init_bridge:
            self.findings.ok("bridge", "there, from init.groovy.d")
        elif wanted is BridgeChoice.INIT:
            self.findings.fail("bridge", "the file's is not there, or serves another account", by_file)
        elif self.administers:
            self.findings.ok("bridge", "there" if mode else "can be put in through the script console")
        elif wanted is BridgeChoice.SCRIPT:
            self.findings.fail(
                "bridge", "the account may not use the script console", "give it Administer, or " + by_file
            )
        else:
            text = "cannot be had: builds are seen at polls, their consoles show no launch"
            self.findings.warn("bridge", text, f"give the account Administer, or {by_file}")

    def _permissions(self) -> None:
        if self.administers:
            self.may_create = True
            self.findings.ok("permissions", "Overall/Administer: everything")
            return
        self.may_create = self._get(_CREATE) is not None
        if self.has_init_bridge:
            self.findings.ok(
                "permissions", "Overall/Read is all that the bridge from init.groovy.d needs, and Job/Read"
            )
        elif self.may_create:
            self.findings.ok("permissions", "Overall/Read and Agent/Create; the others show in the trials below")
        else:
            self.findings.fail("permissions", "the account lacks Agent/Create", f"without the bridge it needs {_PLAIN}")

    def _jobs(self) -> None:
        answer = self._http.get("api/json?tree=jobs[name]{0,1}", op="doctor")
        if answer.get("jobs"):
            self.findings.ok("jobs", "the account sees jobs")
        else:
            text = "the account sees no job: there is none, or it lacks Job/Read"
            self.findings.warn("jobs", text, "give it Job/Read for the jobs that it serves")

    def _agent_url(self) -> None:
        for url in dict.fromkeys(self._controller.url_for_agents(p) for p in self._settings.providers):
            if url == self._http.url:
                continue
            problem = _problem_at(f"{url}tcpSlaveAgentListener/")
            if not problem:
                self.findings.ok("agent_url", f"{url} answers from here, too")
            else:
                text = f"{url} is not seen from here, where it need not be: {problem}"
                self.findings.warn("agent_url", text, "see the trials below, which try it from where agents run")

    def _agent_port(self) -> None:
        needed = any(
            t.transport is TransportKind.TCP and t.serves(self._controller.name) for t in self._settings.templates
        )
        seen = agent_port(self._http, self._controller.agent_url or self._controller.url, op="doctor")
        problem = seen.problem
        if seen.port is None:
            if needed:
                fix = "set the TCP port for inbound agents in Jenkins' security settings, or use transport: websocket"
                self.findings.fail("agent port", "it has no TCP port for agents, and a template uses it", fix)
            else:
                self.findings.ok("agent port", "there is none, and no template needs it")
        elif not problem:
            self.findings.ok("agent port", f"{seen.host}:{seen.port} speaks the agents' protocol")
        elif needed:
            self.findings.fail("agent port", problem, "open it for the networks that agents run in")
        else:
            self.findings.ok("agent port", f"{problem}; no template needs it")

    def _pings(self, answer: Answer) -> None:
        proxy = answer.headers.get("Via") or answer.headers.get("Server", "")
        between = "" if proxy.startswith(("Jetty", "Winstone")) or not proxy else f"; {proxy} is in between"
        if not self.administers:
            text = f"how often it looks after silent agents is told to administrators only{between}"
            self.findings.ok("pings", text)
            return
        words = said(self._http.script(_PINGS))
        if words is None:
            fix = "look into the controller's log; a script was not run"
            self.findings.warn("pings", f"how often it looks after silent agents is not told{between}", fix)
            return
        interval_s, timeout_s, web_s = (
            int(word) if word.lstrip("-").isdigit() else 0 for word in (words.split() + ["0"] * 3)[:3]
        )
        text = f"agents are pinged every {interval_s} s (time-out {timeout_s} s), WebSockets every {web_s} s{between}"
        if interval_s <= 0:
            fix = "remove -Dhudson.slaves.ChannelPinger.pingIntervalSeconds from Jenkins' options"
            self.findings.warn("pings", f"{text}: an agent that hangs is never noticed", fix)
        elif web_s <= 0 or web_s > _PROXY_S:
            fix = "set -Djenkins.websocket.pingInterval=30, and the proxy's read time-out above it"
            self.findings.warn("pings", f"{text}: a proxy cuts silent agents off", fix)
        elif between:
            fix = f"keep its read time-out above {web_s} s, its buffering off, and let it pass Upgrade on"
            self.findings.warn("pings", text, fix)
        else:
            self.findings.ok("pings", text)


def _problem_at(url: str) -> str:
    """Why nothing answers there that is a controller, or ""; agents' own way in needs no login."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_LOOK_S) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        with error:
            headers = error.headers
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", None) or error or type(error).__name__)
    return "" if headers.get("X-Jenkins") or headers.get("X-Hudson") else "what answers there is no Jenkins"
