"""From settings to a desk: records, backends and controllers, made and not opened yet."""

from __future__ import annotations

from pathlib import Path

from provisioner.backends.catalogue import RegistryLogin, make_backend
from provisioner.config import Settings, Template
from provisioner.controller.connection import open_controller
from provisioner.lifecycle.clock import Clock
from provisioner.lifecycle.desk import ControllerHandle, Desk
from provisioner.lifecycle.operations import restore_drained
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.lifecycle.requests import RequestBook
from provisioner.records.store import Store
from provisioner.routing.match import Router
from provisioner.telemetry.metrics import Metrics


def assemble(settings: Settings, clock: Clock) -> Desk:
    """Everything that a sidecar works with.

    Raises:
        ConfigError: a secret is missing.
        StoreError: the state file cannot be used.
        LaunchError: a backend is not installed.
    """
    providers = make_providers(settings)
    store = Store(Path(settings.state), settings.id)
    try:
        controllers = make_controllers(settings, holder=store.holder)
    except BaseException:
        store.close()
        raise
    metrics = Metrics()
    metrics.expect(controllers=controllers, templates=[t.name for t in settings.templates])
    retries = {template.name: template.retries for template in settings.templates}
    book = RequestBook(store, clock, Router(settings.templates), retries, settings.limits.labels)
    desk = Desk(
        settings=settings,
        store=store,
        clock=clock,
        metrics=metrics,
        controllers=controllers,
        providers=providers,
        book=book,
    )
    restore_drained(desk)
    return desk


def make_providers(settings: Settings) -> dict[str, ProviderHandle]:
    """A handle for each provider of the settings."""
    logins = [RegistryLogin(host=r.host, username=r.username, password=r.password.read()) for r in settings.registries]
    return {
        provider.name: ProviderHandle(
            name=provider.name,
            kind=provider.backend.value,
            backend=make_backend(provider, registries=logins, work_dir=settings.work_dir(provider)),
            max_agents=provider.max_agents,
            agent_url=provider.agent_url,
        )
        for provider in settings.providers
    }


def make_controllers(settings: Settings, *, holder: str = "") -> dict[str, ControllerHandle]:
    """A handle for each controller of the settings; without a holder it only looks, and claims no owner id."""
    parameters = sorted({name for template in settings.templates for name in override_parameters(template)})
    return {
        controller.name: ControllerHandle(
            name=controller.name,
            agent_url=controller.agent_url or controller.url,
            port=open_controller(
                name=controller.name,
                url=controller.url,
                user=controller.user,
                token=controller.token.read(),
                owner=settings.id,
                bridge=controller.bridge.value,
                poll_interval_s=controller.poll_interval_s,
                timeout_s=controller.timeout_s,
                parameters=parameters,
                holder=holder,
            ),
        )
        for controller in settings.controllers
    }


def override_parameters(template: Template) -> set[str]:
    """The build parameters that a template's overrides name; no other parameter is ever read."""
    overrides = template.overrides
    asked = (overrides.image, overrides.cpus, overrides.memory, overrides.pids, overrides.shm, overrides.disk)
    return {override.parameter for override in asked if override is not None and override.parameter}
