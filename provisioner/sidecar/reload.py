"""A new configuration for a sidecar at work."""

from __future__ import annotations

from provisioner.config import BackendKind, Settings
from provisioner.lifecycle.engine import Engine
from provisioner.lifecycle.operations import restore_drained
from provisioner.model.errors import ConfigError
from provisioner.routing.match import Router
from provisioner.sidecar.assembly import make_providers, override_parameters
from provisioner.sidecar.gateway import know_providers


def apply_settings(engine: Engine, new: Settings) -> None:
    """Put new settings in force. Agents keep the template version they started with.

    Raises:
        ConfigError: a part changed that only a restart can change; nothing was put in force.
        LaunchError: the backend of a new provider is not installed; likewise.
    """
    desk = engine.desk
    old = desk.settings
    fixed = {
        "id": old.id == new.id,
        "state": old.state == new.state,
        "http": old.http == new.http,
        "controllers": _bare_controllers(old) == _bare_controllers(new),
        "gateway": old.gateway == new.gateway,
        "registries": old.registries == new.registries,
        # controllers are asked for these parameters and for no others
        "the parameters that `overrides` name": _parameters(old) == _parameters(new),
    }
    if any(p.backend is BackendKind.STATIC for p in old.providers):
        # its nodes are reserved by the labels, and cleaned by the job, that were configured when it was made
        fixed["cleanup"] = _bare_cleanup(old) == _bare_cleanup(new)
    before, after = _places(old), _places(new)
    static = {p.name for p in new.providers if p.backend is BackendKind.STATIC}
    added = after.keys() - before.keys() - static
    named = sorted(before.keys() | after.keys())
    moved = [f"provider {name}" for name in named if name not in added and before.get(name) != after.get(name)]
    changed = [key for key, same in fixed.items() if not same] + moved
    if changed:
        raise ConfigError(f"a restart is needed to change: {', '.join(changed)}")
    handles = make_providers(new, only=added)
    desk.settings = new
    for handle in handles.values():
        engine.add_provider(handle)
    know_providers(desk)
    restore_drained(desk)
    for provider in new.providers:
        desk.providers[provider.name].max_agents = provider.max_agents
    router = Router(new.templates)
    desk.book.reroute(router, new.limits.labels)
    desk.metrics.expect(controllers=desk.controllers, templates=[t.name for t in new.templates])
    engine.planner.reconfigure()
    desk.plan_again.set()


def _parameters(settings: Settings) -> set[str]:
    return {name for template in settings.templates for name in override_parameters(template)}


def _bare_controllers(settings: Settings) -> list[object]:
    """What identifies the controllers; how many agents each may have can change."""
    return [controller.model_copy(update={"max_agents": None}) for controller in settings.controllers]


def _bare_cleanup(settings: Settings) -> object:
    """What static nodes go by; how often the scheduler looks can change."""
    return settings.cleanup and settings.cleanup.model_copy(update={"interval_s": 0.0})


def _places(settings: Settings) -> dict[str, str]:
    """What identifies each provider's place; its capacity may change."""
    return {p.name: p.model_dump_json(exclude={"max_agents"}, by_alias=True) for p in settings.providers}
