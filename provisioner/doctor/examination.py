"""All examinations in their order: this machine, controllers, providers, an agent of each template."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from provisioner.backends.contract import Backend
from provisioner.cleanup.assembly import make_scheduler
from provisioner.cleanup.state import NodeState
from provisioner.config import BackendKind, BridgeChoice, Controller, Provider, Settings, Template, unreadable_files
from provisioner.controller.rest import Rest
from provisioner.controller.rest_views import owner_of
from provisioner.doctor.controllers import ControllerCheck
from provisioner.doctor.findings import Finding, Findings, Verdict
from provisioner.doctor.machine import examine_machine
from provisioner.doctor.trial import Trials, verify
from provisioner.lifecycle.desk import ControllerHandle
from provisioner.model.agent import Agent, AgentState, Target, new_agent_name
from provisioner.model.errors import ConfigError, ProvisionerError
from provisioner.sidecar.assembly import make_controllers, make_providers

_OWNER_ROOM = 33  # an owner id has at most 40 characters
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CLOSE_S = 5.0
_NAME = "doctor"  # begins the names of all that it makes

Tell = Callable[[Finding], None]


class DoctorError(ProvisionerError):
    """The doctor cannot work at all."""


class Examination:
    """One run of the doctor.

    Args:
        settings: the configuration.
        trials: whether to make nodes and instances for a moment.
        tell: is told of every finding as it comes.
    """

    def __init__(self, settings: Settings, *, trials: bool, tell: Tell) -> None:
        self._settings = settings
        self._trials = trials
        self._tell = tell
        self._told: list[Finding] = []

    async def run(self) -> list[Finding]:
        """Try everything.

        Raises:
            DoctorError: another doctor of this owner is at it.
        """
        with _alone(self._settings):
            self._take(examine_machine(self._settings))
            checks = {}
            for controller in self._settings.controllers:
                checks[controller.name] = await asyncio.to_thread(self._controller, controller)
            async with self._providers() as backends:
                for name, backend in backends.items():
                    await self._provider(self._settings.provider(name), backend)
                for controller in self._settings.controllers:
                    check = checks[controller.name]
                    if check is None or not check.reached:
                        continue
                    if self._trials:
                        await self._try(controller, check, backends)
                    else:
                        await self._templates(controller, self._settings.id, None, backends)
        return self._told

    def _take(self, findings: Findings) -> None:
        for finding in findings.found[len([f for f in self._told if f.subject == findings.subject]) :]:
            self._told.append(finding)
            self._tell(finding)

    # -- one by one

    def _controller(self, controller: Controller) -> ControllerCheck | None:
        try:
            http = Rest.of(controller)
        except ConfigError:
            return None  # told as a missing secret
        check = ControllerCheck(self._settings, controller, http)
        try:
            check.run()
        except ProvisionerError as error:
            check.findings.fail("reach", error.message, "look into the controller's log")
            check.reached = False
        finally:
            http.close()
        self._take(check.findings)
        return check

    @asynccontextmanager
    async def _providers(self) -> AsyncIterator[dict[str, Backend]]:
        backends: dict[str, Backend] = {}
        for provider in self._settings.providers:
            if provider.backend is BackendKind.STATIC:
                await self._static(provider)
                continue
            one = self._settings.model_copy(update={"providers": (provider,)})
            try:
                backends[provider.name] = make_providers(one)[provider.name].backend
            except ProvisionerError as error:
                findings = Findings(f"provider {provider.name}", [])
                findings.fail("backend", error.message, "install what it names, or leave the provider out")
                self._take(findings)
        try:
            yield backends
        finally:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(*(backend.close() for backend in backends.values()), return_exceptions=True)

    async def _static(self, provider: Provider) -> None:
        """Nodes that are there already: nothing is started, what cleanup knows of them is all there is to see."""
        findings = Findings(f"provider {provider.name}", [])
        try:
            rows = await asyncio.to_thread(make_scheduler(self._settings).plan)
        except ProvisionerError as error:
            findings.fail("nodes", error.message, "mend `cleanup`; docs/cleanup.md shows how")
        else:
            clean = sum(row.state is NodeState.CLEAN for row in rows)
            text = f"{clean} of {len(rows)} nodes are clean"
            if clean:
                findings.ok("nodes", text)
            else:
                findings.warn("nodes", text, "see `provisioner cleanup --dry-run`")
        self._take(findings)

    async def _provider(self, provider: Provider, backend: Backend) -> None:
        findings = Findings(f"provider {provider.name}", [])
        try:
            await backend.open()
            findings.ok("reach", await backend.ping())
            listing = await backend.listing(self._settings.id)
            agents = len({found.agent for found in listing.found})
            text = f"{agents} of {provider.max_agents} agents are there"
            if not listing.complete:
                findings.warn("listing", "not everything that carries our mark can be listed", "see the engine's log")
            elif agents >= provider.max_agents:
                findings.warn("capacity", text, "wait, or raise max_agents")
            else:
                findings.ok("capacity", text)
        except ProvisionerError as error:
            index = self._settings.providers.index(provider)
            bare = any(problem.path[:2] == ("providers", index) for problem in unreadable_files(self._settings))
            fix = "check `endpoint`, that the engine runs, and that this user may use it"
            fix = "give this machine the file that is missing, as told above" if bare else fix
            findings.fail("reach", error.message, fix)
        if provider.backend is not BackendKind.PROCESS and provider.network != "host":
            for controller in self._settings.controllers:
                url = controller.url_for_agents(provider)
                if urlsplit(url).hostname in _LOOPBACK:
                    text = f"agents would dial {url}, which inside a container is the container itself"
                    findings.fail("agent_url", text, "set `agent_url` to an address that containers reach")
        self._take(findings)

    async def _try(self, controller: Controller, check: ControllerCheck, backends: Mapping[str, Backend]) -> None:
        """Make a node, and an agent of each template that this controller's builds may use."""
        init = check.has_init_bridge and not check.may_create
        # a bridge that we would put in by script is left out, and the init's serves only the owner ids of its file
        bridge = BridgeChoice.INIT if init else BridgeChoice.OFF
        owner = self._settings.id if init else doctors_owner(self._settings.id)
        plain = controller.model_copy(update={"bridge": bridge})
        settings = self._settings.model_copy(update={"id": owner, "controllers": (plain,)})
        handle = make_controllers(settings)[controller.name]
        http = Rest.of(controller)
        trials = Trials(controller.name, handle.port, http, owner)
        web_socket = Findings(f"controller {controller.name}", list(check.findings.found))
        try:
            await handle.port.open()
            await self._sweep(handle, http, owner, backends)
            await trials.web_socket(web_socket, controller.url)
            self._take(web_socket)
            await self._templates(controller, owner, trials, backends)
        except ProvisionerError as error:
            web_socket.fail("trials", error.message, "mend what stands above first")
            self._take(web_socket)
        finally:
            await handle.port.close()
            http.close()

    async def _templates(
        self, controller: Controller, owner: str, trials: Trials | None, backends: Mapping[str, Backend]
    ) -> None:
        broken = {f.subject for f in self._told if f.verdict is Verdict.FAIL and f.check in {"reach", "backend"}}
        full = {f.subject for f in self._told if f.verdict is Verdict.WARN and f.check == "capacity"}
        several = len(self._settings.controllers) > 1
        for template in self._settings.templates:
            for name in template.providers if template.serves(controller.name) else ():
                subject = f"provider {name}"
                if subject in broken or name not in backends:
                    continue
                provider = self._settings.provider(name)
                at = f" for {controller.name}" if several else ""
                findings = Findings(f"template {template.name} on {name}{at}", [])
                order = await verify(
                    findings,
                    template,
                    _agent(template, owner, controller.name, name),
                    url=controller.url_for_agents(provider),
                    kind=provider.backend.value,
                    backend=backends[name],
                )
                if order is not None and trials is not None:
                    if subject in full:
                        findings.warn("agent", "not tried: the provider is full", "try again when there is room")
                    else:
                        await trials.template(findings, template, order, backends[name])
                self._take(findings)

    async def _sweep(self, handle: ControllerHandle, http: Rest, owner: str, backends: Mapping[str, Backend]) -> None:
        """Remove what an earlier doctor left that was killed; this one is alone."""
        computers = await asyncio.to_thread(
            http.get, "computer/api/json?tree=computer[displayName,description]", op="doctor"
        )
        for computer in computers["computer"]:
            name = str(computer["displayName"])
            if owner_of(computer.get("description")) == owner and self._left(name, owner):
                await handle.port.remove(name)
        for name in await handle.port.credentials():
            if self._left(name, owner):
                await handle.port.remove_credentials(name)
        for backend in backends.values():
            try:
                listing = await backend.listing(owner)
                for found in listing.found if listing.complete else ():
                    if self._left(found.agent, owner):
                        await backend.remove_found(found)
            except ProvisionerError:
                continue  # told by the provider's own findings

    def _left(self, agent: str, owner: str) -> bool:
        """Whether something is an earlier doctor's; where it has no owner id of its own, its name tells."""
        own = owner != self._settings.id or all(t.name != _NAME for t in self._settings.templates)
        return own and agent.startswith(f"{_NAME}-")


def _agent(template: Template, owner: str, controller: str, provider: str) -> Agent:
    return Agent(
        name=new_agent_name(_NAME),
        owner=owner,
        controller=controller,
        template=template.name,
        provider=provider,
        request=None,
        state=AgentState.PLANNED,
        target=Target.SERVE,
        created_at=datetime.now(UTC),
        spec=template.spec(),
    )


def doctors_owner(owner: str) -> str:
    """The owner id of what the doctor makes."""
    return f"{owner[:_OWNER_ROOM].rstrip('-')}-doctor"


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One doctor at a time, so that what carries its mark is what another left."""
    path = Path(tempfile.gettempdir()) / f"{doctors_owner(settings.id)}-{os.getuid()}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DoctorError("another doctor of this provisioner is at work; wait for it") from error
        yield
    finally:
        os.close(lock)
