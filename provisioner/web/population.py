"""What exists at the moment of a scrape."""

from __future__ import annotations

from provisioner.capacity.plant import ProviderState
from provisioner.lifecycle.engine import Engine
from provisioner.model.request import RequestState
from provisioner.telemetry.metrics import Population


def population(engine: Engine) -> Population:
    """Count everything once."""
    desk = engine.desk
    now = desk.clock.now()
    requests = list(desk.book)
    oldest: dict[str, float] = {}
    for request in requests:
        if request.state is RequestState.WAITING:
            name = request.item.key.controller
            oldest[name] = max(oldest.get(name, 0.0), (now - request.first_seen).total_seconds())
    agents = [task.agent for task in desk.agents.values()]
    return Population(
        agents=[(a.controller, a.state.value, a.provider, a.template) for a in agents],
        requests=[(r.item.key.controller, r.state.value) for r in requests],
        oldest_s=oldest,
        capacity={name: provider.max_agents for name, provider in desk.providers.items()},
        breakers=_breakers(engine),
        controllers_up={name: c.up for name, c in desk.controllers.items()},
        modes={name: c.port.info.mode.value for name, c in desk.controllers.items() if c.port.info},
        controller_requests={name: c.port.requests_made() for name, c in desk.controllers.items()},
        places=[
            (controller, provider, template.name)
            for template in desk.settings.templates
            for provider in template.providers
            for controller in desk.controllers
            if template.serves(controller)
        ],
    )


def _breakers(engine: Engine) -> list[tuple[str, str, bool]]:
    """Every pair that the configuration knows: provider, template, whether its launches are left alone for a while."""
    plant = engine.planner.plant()
    cooling = ProviderState.COOLING_DOWN
    whole = {name for name, condition in plant.conditions.items() if condition.state is cooling}
    pairs = {pair for pair, condition in plant.pair_conditions.items() if condition.state is cooling}
    return [
        (provider, template.name, provider in whole or (provider, template.name) in pairs)
        for template in engine.desk.settings.templates
        for provider in template.providers
    ]
