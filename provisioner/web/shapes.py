"""Records as the API shows them: plain values, no secret, nothing that a reader must know our code for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from urllib.parse import unquote

from provisioner.capacity.plant import Bounded, Plant, Tally
from provisioner.config import Template
from provisioner.lifecycle.desk import ControllerHandle
from provisioner.lifecycle.orphans import Orphan
from provisioner.lifecycle.outlook import Waiting
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.model.agent import Agent, AgentState
from provisioner.model.queue import RequestKey
from provisioner.model.request import Request

Shape = dict[str, object]


def job_of(task: str) -> str:
    """The job's full name from its task's URL: `job/team/job/app/3/` is `team/app #3`."""
    parts = [unquote(part) for part in task.strip("/").split("/")]
    names = [after for before, after in pairwise(parts) if before == "job"]
    number = f" #{parts[-1]}" if len(parts) > 1 and parts[-1].isdigit() and parts[-2] != "job" else ""
    return ("/".join(names) or task) + number


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _key(key: RequestKey | None) -> Shape | None:
    return None if key is None else {"queue_id": key.queue_id, "since_ms": key.since_ms, "task": key.task}


def phases(agent: Agent) -> dict[str, float]:
    """How long it was in each state that it has left, seconds."""
    states = {state.value for state in AgentState}
    marks = sorted(((at, state) for state, at in agent.marks.items() if state in states), key=lambda mark: mark[0])
    return {state: round((end - begin).total_seconds(), 3) for (begin, state), (end, _) in pairwise(marks)}


def agent_shape(agent: Agent, now: datetime) -> Shape:
    """One agent, live or gone."""
    entered = agent.marks.get(agent.state.value, agent.created_at)
    ended = now if agent.live else entered
    return {
        "name": agent.name,
        "state": agent.state.value,
        "target": agent.target.value,
        "controller": agent.controller,
        "template": agent.template,
        "provider": agent.provider,
        "job": job_of(agent.request.task) if agent.request else None,
        "request": _key(agent.request),
        "kind": agent.kind.value if agent.kind else None,
        "labels": list(agent.labels),
        "attempt": agent.attempt,
        "created_at": _time(agent.created_at),
        "state_since": _time(entered),
        "age_s": round(max(0.0, (ended - agent.created_at).total_seconds()), 1),
        "phases_s": phases(agent),
        "ids": dict(agent.ids),
        "build_url": agent.build_url,
        "held_until": _time(agent.held_until),
        "hold_reason": agent.hold_reason,
        "reason": agent.reason.value if agent.reason else None,
        "detail": agent.detail,
    }


def request_shape(waiting: Waiting, now: datetime) -> Shape:
    """One request, with what it waits for."""
    request: Request = waiting.request
    return {
        "queue_id": request.item.key.queue_id,
        "controller": request.item.key.controller,
        "job": request.item.job,
        "kind": request.item.kind.value,
        "label": request.item.label,
        "causes": list(request.item.causes),
        "state": request.state.value,
        "template": request.template,
        "agent": request.agent,
        "waits_for": list(waiting.reasons),
        "next_step": waiting.next_step,
        "since_ms": request.item.key.since_ms,
        "task": request.item.key.task,
        "first_seen": _time(request.first_seen),
        "age_s": round(max(0.0, (now - request.first_seen).total_seconds()), 1),
        "attempts": request.attempts,
        "not_before": _time(request.not_before),
        "reason": request.reason.value if request.reason else None,
        "detail": request.detail,
    }


def provider_shape(handle: ProviderHandle, plant: Plant, tally: Tally) -> Shape:
    """One provider: state, capacity and use."""
    condition, now = plant.conditions.get(handle.name), plant.providers.get(handle.name)
    return {
        "name": handle.name,
        "backend": handle.kind,
        "state": condition.state.value if condition else "open",
        "reason": condition.reason if condition else "",
        "until": condition.until if condition else "",
        "up": handle.up,
        "drained": handle.drained,
        "max_agents": handle.max_agents,
        "agents": tally.by_provider[handle.name],
        "refuses": now.words() if isinstance(now, Bounded) else "",
        "templates_paused": [
            {"template": template, "state": pair.state.value, "reason": pair.reason, "until": pair.until}
            for (provider, template), pair in sorted(plant.pair_conditions.items())
            if provider == handle.name
        ],
    }


def controller_shape(handle: ControllerHandle, url: str, now_monotonic: float) -> Shape:
    """One controller: whether it answers, and how it is spoken to."""
    info = handle.port.info
    return {
        "name": handle.name,
        "url": url,
        "up": handle.up,
        "problem": "" if handle.up else handle.problem,
        "quieting_down": handle.quieting_down,
        "version": info.version if info else None,
        "bridge": info.mode.value if info else None,
        "last_contact_s": round(now_monotonic - handle.last_contact, 1) if handle.last_contact else None,
    }


def template_shape(template: Template, tally: Tally) -> Shape:
    """One template, without what goes into the instance: environment and secrets are nobody's business here."""
    image = template.image
    return {
        "name": template.name,
        "version": template.version,
        "labels": list(template.labels),
        "controllers": list(template.controllers),
        "jobs": list(template.jobs),
        "priority": template.priority,
        "providers": list(template.providers),
        "image": {kind.value: name for kind, name in image.items()} if isinstance(image, Mapping) else image,
        "max_agents": template.max_agents,
        "agents": tally.by_template[template.name],
        "standby": template.standby,
    }


def orphan_shape(orphan: Orphan) -> Shape:
    """One thing of ours that belongs to no agent."""
    return {
        "kind": orphan.kind,
        "id": orphan.id,
        "agent": orphan.agent,
        "where": orphan.where,
        "passes": orphan.passes,
        "reason": orphan.reason,
        "age_s": None if orphan.age_s is None else round(orphan.age_s, 1),
    }
