"""An agent of each template, started for nothing and removed: what no single look can tell.

Nodes and instances carry an owner id of the doctor's own, so that no running sidecar takes them for its own.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from provisioner.backends.contract import Backend, Checkpoint, InstanceState, Order
from provisioner.config import Template, TransportKind
from provisioner.controller.port import Controller, Launcher, NodeOrder
from provisioner.controller.rest import Rest
from provisioner.doctor.findings import Findings
from provisioner.lifecycle.dialling import dial_of
from provisioner.lifecycle.orders import instance_order, transport_files
from provisioner.model.agent import Agent, new_agent_name
from provisioner.model.errors import NEXT_STEP, ControllerError, LaunchError, ProvisionerError, Reason
from provisioner.transports import Setup, transport
from provisioner.transports.dialling import Instance, NotYet
from provisioner.transports.ssh import Direct

_CONNECT_MOST_S = 90.0
_PULL_MOST_S = 600.0
_JAVA_S = 30.0
_LOOK_S = 0.2
_UPGRADE_S = 10.0
#: What agent.jar says of itself when it offers a connection.
_CAPABILITY = "rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0eQAAAAAAAAABAgABSgAEbWFza3hwAAAAAAAAAf4="
_NONE = "-"  # until there is a node, and so a secret
_JAVA = re.compile(r'version "(\d+)(?:\.(\d+))?[^"]*"')
_OLDEST_JAVA = 11
#: What the last lines of an agent that did not connect mean.
_MEANS = (
    ("UnknownHostException", "the name in `agent_url` is not known where agents run; set another, or `extra_hosts`"),
    ("UnresolvedAddress", "the name in `agent_url` is not known where agents run; set another, or `extra_hosts`"),
    ("ConnectException", "nothing answers at `agent_url` where the agent runs; inside a container 127.0.0.1 is itself"),
    ("refused", "nothing answers at `agent_url` where the agent runs; inside a container 127.0.0.1 is itself"),
    ("timed out", "no way leads from the agent's network to `agent_url`; look at firewall and `network`"),
    ("unreachable", "no way leads from the agent's network to `agent_url`; look at firewall and `network`"),
    ("not 101: 403", "the controller refuses the agent; look at its log"),
    ("not 101: 5", "the controller, or the proxy in front of it, fails at `agent_url`; look at their logs"),
    ("not 101", "what answers at `agent_url` takes no WebSocket: another server, or a proxy that passes no Upgrade on"),
    ("PKIX", "the agent's Java does not know who signed the certificate of `agent_url`; add it to the image"),
    ("SSLHandshake", "the agent's Java cannot agree with the TLS of `agent_url`; is it http:// there?"),
    ("UnsupportedClassVersion", "the image's Java is too old for this controller; use `java: injected`"),
)  # fmt: skip
#: For who may do something about it, other than a build's console.
_FIXES = {
    Reason.REGISTRY_ERROR: "let the engine reach the registry, or put the image on the engine",
    Reason.PROVIDER_UNREACHABLE: "see the provider's own findings above",
    Reason.TEMPLATE_INVALID: "mend what it names",
}


class Trials:
    """Trials at one controller.

    Args:
        name: the controller's.
        port: the controller; open.
        http: the same, to be asked.
        owner: the doctor's owner id there.
    """

    def __init__(self, name: str, port: Controller, http: Rest, owner: str) -> None:
        self._name = name
        self._port = port
        self._http = http
        self._owner = owner

    async def web_socket(self, findings: Findings, url: str) -> None:
        """Connect as an agent would, and leave."""
        agent = new_agent_name("doctor")
        try:
            async with self._node(agent, "/nonexistent", Launcher.WEBSOCKET) as secret:
                status = await _upgrade(url, agent, secret)
        except ControllerError as error:
            findings.fail(
                "WebSocket", f"no node can be made to try it: {error.message}", "give the account what it lacks"
            )
            return
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = f"no connection: {error or type(error).__name__}"
            findings.fail("WebSocket", text, "let the proxy in front of Jenkins pass Upgrade and Connection on")
            return
        if status == 101:
            findings.ok("WebSocket", "an agent's connection is taken")
        else:
            text = f"an agent's connection is answered with status {status}"
            findings.fail("WebSocket", text, "let the proxy in front of Jenkins pass Upgrade and Connection on")

    @asynccontextmanager
    async def _node(self, agent: str, root: str, launcher: Launcher) -> AsyncIterator[str]:
        try:
            yield (await self._port.register(self._node_order(agent, root, launcher))).secret
        finally:
            await self._port.remove(agent, credentials=launcher is Launcher.SSH)

    def _node_order(self, agent: str, root: str, launcher: Launcher) -> NodeOrder:
        return NodeOrder(name=agent, owner=self._owner, labels=(), remote_fs=root, request=None, launcher=launcher)

    async def template(self, findings: Findings, template: Template, order: Order, backend: Backend) -> None:
        """An instance of a template, its Java, and an agent that connects."""
        order = replace(
            order,
            agent_jar=await self._port.agent_jar(),
            pull_timeout_s=min(order.pull_timeout_s, _PULL_MOST_S),
        )
        if not await self._java(findings, order, backend):
            return
        if template.transport is TransportKind.SSH_GATEWAY:
            findings.ok("agent", "transport ssh-gateway: not tried, since its gateway runs beside a sidecar only")
            return
        await self._agent(findings, template, order, backend)

    async def _java(self, findings: Findings, order: Order, backend: Backend) -> bool:
        """Start the template's Java with nothing to do."""
        asked = replace(order, agent=new_agent_name("doctor"), command=(order.command[0], "-version"), files=())
        try:
            status, lines = await _run(asked, backend)
        except LaunchError as error:
            fix = _meaning(error.tail) or _FIXES.get(error.reason, NEXT_STEP[error.reason])
            findings.fail("instance", f"{error.message} ({error.reason})", fix)
            return False
        findings.ok("instance", f"starts{f' from {order.image}' if order.image else ''}")
        found = _JAVA.search("\n".join(lines))
        if found is None:
            said = lines[-1] if lines else "it says nothing"
            text = f"no Java runs in it (exit code {status}): {said}"
            findings.fail("Java", text, "use `java: injected`, or an image with Java 17")
            return False
        version = int(found[2] or 8) if found[1] == "1" else int(found[1])
        if version < _OLDEST_JAVA:
            findings.fail("Java", f"Java {version}", "use `java: injected`, or an image with Java 17")
            return False
        findings.ok("Java", f"Java {version}, {order.java}")
        return True

    async def _agent(self, findings: Findings, template: Template, order: Order, backend: Backend) -> None:
        began_s = time.monotonic()
        root = backend.remote_root(self._owner, order.agent, template.remote_fs)
        dialled = template.transport is TransportKind.SSH
        url = order.jars_of
        within_s = min(template.timeouts.connect_s, _CONNECT_MOST_S)
        ids: dict[str, str] = {}
        try:
            launcher = Launcher(template.transport)
            async with self._node(order.agent, root, launcher) as secret:
                try:
                    async for step in backend.start(_armed(order, template, secret)):
                        if isinstance(step, Checkpoint):
                            ids[step.key] = step.value
                    problem = ""
                    if dialled:
                        node = self._node_order(order.agent, root, launcher)
                        instance = _instance(order, secret, backend, ids, root)
                        problem = await self._dialled(node, instance, within_s)
                    problem = problem or await self._connected(order.agent, backend, ids, within_s)
                    tail = await self._tail(order.agent, backend, ids, dialled=dialled) if problem else ()
                finally:
                    await backend.stop(order.agent, ids)
        except ProvisionerError as error:
            findings.fail("agent", f"{error.message} ({error.reason})", NEXT_STEP[error.reason])
            return
        took_s = time.monotonic() - began_s
        if not problem:
            way = "is reached by the controller over ssh" if dialled else f"reaches {url} by {template.transport}"
            findings.ok("agent", f"{way}: connected and removed in {took_s:.1f} s")
            return
        last = _telling(tail)
        if dialled:
            fix = "let the controller reach the instances' network, or give the provider `ssh_host`"
            said = " / ".join(line.strip() for line in tail[-4:]) or "nothing"
            text = f"the controller does not connect over ssh: {problem}; it says: {said[:400]}"
            findings.fail("agent", text, fix)
            return
        fix = _meaning(tail) or "look at what it says, and try `agent_url` from inside an instance"
        findings.fail("agent", f"does not connect to {url}: {problem}; it says: {last.strip()[:200]}", fix)

    async def _dialled(self, node: NodeOrder, instance: Instance, within_s: float) -> str:
        """Have the controller dial the instance; why it cannot be dialled, or ""."""
        deadline_s = time.monotonic() + within_s
        while isinstance(met := await Direct().meet(instance), NotYet):
            if time.monotonic() > deadline_s:
                return met.text
            await asyncio.sleep(_LOOK_S)
        await self._port.dial(node, dial_of(met, timeout_s=within_s))
        return ""

    async def _tail(self, agent: str, backend: Backend, ids: Mapping[str, str], *, dialled: bool) -> tuple[str, ...]:
        """What is said of a connection by who dials."""
        if dialled and (said := await self._port.launch_tail(agent)):
            return said
        return await backend.log_tail(agent, ids)

    async def _connected(self, agent: str, backend: Backend, ids: dict[str, str], within_s: float) -> str:
        """Why it did not connect, or ""."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            path = f"computer/{agent}/api/json?tree=offline"
            if not (await asyncio.to_thread(self._http.get, path, op="doctor"))["offline"]:
                return ""
            status = await backend.status(agent, ids)
            if status.state in {InstanceState.EXITED, InstanceState.MISSING}:
                return f"it ended with exit code {status.exit_code}"
            await asyncio.sleep(_LOOK_S)
        return f"not within {within_s:.0f} s"


async def verify(
    findings: Findings, template: Template, agent: Agent, *, url: str, kind: str, backend: Backend
) -> Order | None:
    """What would keep a template's instance from starting, as far as looking tells; None: something would.

    Args:
        findings: where it is told.
        template: which one.
        agent: a name for it, with controller and provider.
        url: the controller as an agent there reaches it.
        kind: the provider's backend.
        backend: the provider.
    """
    # who dials whom makes no difference to whether the image starts
    dialled = transport(template.transport.value).dialled
    known = template.model_copy(update={"transport": TransportKind.WEBSOCKET}) if dialled else template
    try:
        order = instance_order(agent, known, backend=kind, agent_url=url, secret=_NONE, agent_jar=b"")
        problems = await backend.verify(order)
    except ProvisionerError as error:
        findings.fail("template", error.message, NEXT_STEP[error.reason])
        return None
    for problem in problems:
        what, _, fix = problem.partition("; ")
        findings.fail("template", what, fix or "mend the template")
    if problems:
        return None
    findings.ok("template", "image, network and Java are there or can be had, as far as looking tells")
    return order


async def _run(order: Order, backend: Backend) -> tuple[int | None, Sequence[str]]:
    """Start an instance that ends by itself: its exit code and its last lines."""
    ids: dict[str, str] = {}
    try:
        async for step in backend.start(order):
            if isinstance(step, Checkpoint):
                ids[step.key] = step.value
        deadline_s = time.monotonic() + _JAVA_S
        status = await backend.status(order.agent, ids)
        while status.state is InstanceState.RUNNING and time.monotonic() < deadline_s:
            await asyncio.sleep(_LOOK_S)
            status = await backend.status(order.agent, ids)
        return status.exit_code, await backend.log_tail(order.agent, ids)
    finally:
        await backend.stop(order.agent, ids)


def _armed(order: Order, template: Template, secret: str) -> Order:
    """The order as its own transport has it, now that there is a node."""
    way = transport(template.transport.value)
    setup = Setup(name=order.agent, agent_url=order.jars_of, secret=secret, template=order.template)
    return replace(
        order,
        command=way.command(setup),
        files=transport_files(way, setup),
        listens=way.listens,
        work_as=way.work_as(order.template),
    )


def _instance(order: Order, secret: str, backend: Backend, ids: Mapping[str, str], root: str) -> Instance:
    return Instance(
        agent=order.agent,
        owner=order.owner,
        secret=secret,
        template=order.template,
        provider="",
        backend="",
        jar="",
        ids=ids,
        root=root,
        java=backend.java(order.java),
        address=lambda: backend.address(order.agent, ids),
    )


async def _upgrade(url: str, agent: str, secret: str) -> int:
    headers = {"Node-Name": agent, "Secret-Key": secret, "X-Remoting-Capability": _CAPABILITY}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_UPGRADE_S)) as session:
        try:
            async with session.ws_connect(f"{url}wsagents/", headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


def _telling(tail: Sequence[str]) -> str:
    """The line that says why: the innermost cause of a stack trace, else the last line."""
    causes = [line for line in tail if line.startswith("Caused by:")]
    return next((line for line in reversed(causes or tail) if line.strip()), "it says nothing")


def _meaning(tail: Sequence[str]) -> str:
    text = "\n".join(tail)
    return next((fix for word, fix in _MEANS if word in text), "")
