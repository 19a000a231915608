"""From settings to a desk: records, backends and controllers, made and not opened yet."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path

from provisioner.backends.catalogue import RegistryLogin, make_backend
from provisioner.cleanup.assembly import make_http, make_policy, make_scheduler
from provisioner.config import BackendKind, BridgeChoice, Settings, Template
from provisioner.controller.connection import Connection
from provisioner.controller.rest import Rest
from provisioner.lifecycle.clock import Clock
from provisioner.lifecycle.desk import ControllerHandle, Desk
from provisioner.lifecycle.operations import restore_drained
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.lifecycle.requests import RequestBook
from provisioner.records.store import Store
from provisioner.routing.match import Router
from provisioner.sidecar.gateway import by_gateway
from provisioner.static.backend import NODE, StaticBackend
from provisioner.static.console import ScriptSeats
from provisioner.static.nodes import StaticNodes
from provisioner.static.port import StaticPort
from provisioner.static.stored import StoredSeats
from provisioner.telemetry.metrics import Metrics
from provisioner.transports import ssh
from provisioner.transports.dialling import Dialled

#: What was seen of static nodes before that is looked at anew for a request.
_STALE_S = 0.2


def assemble(settings: Settings, clock: Clock) -> Desk:
    """Everything that a sidecar works with.

    Raises:
        ConfigError: a secret is missing.
        StoreError: the state file cannot be used.
        LaunchError: a backend is not installed.
    """
    static = make_static_nodes(settings)
    providers = make_providers(settings, static)
    store = Store(Path(settings.state), settings.id)
    try:
        controllers = make_controllers(settings, static, holder=store.holder)
    except BaseException:
        store.close()
        raise
    metrics = Metrics()
    metrics.expect(controllers=controllers, templates=[t.name for t in settings.templates])
    book = RequestBook(store, clock, Router(settings.templates), settings.limits.labels)
    desk = Desk(
        settings=settings,
        store=store,
        clock=clock,
        metrics=metrics,
        controllers=controllers,
        providers=providers,
        book=book,
        dialled=dict(make_dialled(settings)),
    )
    if static is not None:
        for agent in store.live_agents():
            if NODE in agent.ids:
                static.remember(agent.name, agent.ids[NODE], agent.request)
    restore_drained(desk)
    return desk


def make_static_nodes(settings: Settings) -> StaticNodes | None:
    """The static nodes behind the providers that have any; None if there is no such provider."""
    needs = {p.name: p.node_labels for p in settings.providers if p.backend is BackendKind.STATIC}
    wanted = settings.cleanup
    if not needs or wanted is None:
        return None
    http = make_http(settings)
    policy, plainly = make_policy(wanted), StoredSeats(http, policy=make_policy(wanted))
    script = settings.controller(wanted.controller).bridge is not BridgeChoice.OFF
    return StaticNodes(
        owner=settings.id,
        http=http,
        seats=ScriptSeats(http, job=wanted.job, policy=policy) if script else plainly,
        plainly=plainly,
        cleaner=make_scheduler(settings),
        needs=needs,
    )


def make_dialled(settings: Settings) -> Mapping[str, Dialled]:
    """What meets the instances of each transport with which the controller dials."""
    return {"ssh": ssh.Direct(), "ssh-gateway": by_gateway(settings)}


def make_providers(
    settings: Settings, static: StaticNodes | None = None, *, only: Container[str] | None = None
) -> dict[str, ProviderHandle]:
    """A handle for each provider of the settings, or for some of them."""
    logins = [RegistryLogin(host=r.host, username=r.username, password=r.password.read()) for r in settings.registries]
    handles = {}
    for provider in settings.providers:
        if only is not None and provider.name not in only:
            continue
        behind = static if provider.backend is BackendKind.STATIC else None
        handles[provider.name] = ProviderHandle(
            name=provider.name,
            kind=provider.backend.value,
            backend=StaticBackend(provider.name, behind)
            if behind is not None
            else make_backend(provider, registries=logins, work_dir=settings.work_dir(provider)),
            max_agents=provider.max_agents,
            agent_url=provider.agent_url,
        )
        if behind is not None:
            handles[provider.name].look = partial(behind.look, max_age_s=_STALE_S)
            handles[provider.name].room = partial(behind.room, provider.name)
    return handles


def make_controllers(
    settings: Settings, static: StaticNodes | None = None, *, holder: str = ""
) -> dict[str, ControllerHandle]:
    """A handle for each controller of the settings; without a holder it only looks, and claims no owner id."""
    parameters = sorted({name for template in settings.templates for name in override_parameters(template)})
    handles = {
        controller.name: ControllerHandle(
            name=controller.name,
            agent_url=controller.agent_url or controller.url,
            port=Connection(
                Rest.of(controller),
                owner=settings.id,
                bridge=controller.bridge.value,
                poll_interval_s=controller.poll_interval_s,
                parameters=parameters,
                holder=holder,
            ),
        )
        for controller in settings.controllers
    }
    if static is not None and settings.cleanup is not None:
        controller = settings.controller(settings.cleanup.controller)
        providers = [p.name for p in settings.providers if p.backend is BackendKind.STATIC]
        handle = handles[controller.name]
        handle.port = StaticPort(
            handle.port, static, providers=providers, interval_s=max(1.0, controller.poll_interval_s)
        )
    return handles


def override_parameters(template: Template) -> set[str]:
    """The build parameters that a template's overrides name; no other parameter is ever read."""
    overrides = template.overrides
    asked = (overrides.image, overrides.cpus, overrides.memory, overrides.pids, overrides.shm, overrides.disk)
    return {override.parameter for override in asked if override is not None and override.parameter}
