"""The metrics of the product's contract, in a registry of their own; known series exist from the start, at zero."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from provisioner import __version__
from provisioner.model.agent import GONE, AgentState
from provisioner.model.errors import Reason
from provisioner.model.request import RequestState

# a series `…_created` beside every other one would double the scrape, and no name of the contract is one
disable_created_metrics()  # type: ignore[no-untyped-call]

_PREFIX = "jenkins_provisioner_"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_MODES = ("init", "script", "off")
#: What controllers are asked; an op that is not here shows with its first answer.
_OPS = (
    "open", "crumb", "script", "agent_jar",
    "bridge_status", "bridge_hello", "bridge_events", "bridge_apply",
    "queue", "nodes", "node", "parameters", "placeholder", "register", "secret", "bar", "remove", "cancel",
    "fate", "outcome", "build", "explain", "describe", "credentials", "launch_log", "agent_port",
)  # fmt: skip
_ORPHAN_KINDS = ("node", "container", "volume", "network", "process", "folder", "credentials")
_LIVE_STATES = tuple(state.value for state in AgentState if state not in GONE)
_PHASES = {
    "queue_to_request_seconds": "From the item becoming buildable to the node's registration.",
    "request_to_online_seconds": "From the node's registration to the agent being online.",
    "online_to_started_seconds": "From the agent being online to its build having started.",
    "finished_to_removed_seconds": "From the end of the build to node and instance being gone.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """What exists at the moment of a scrape."""

    agents: Iterable[tuple[str, str, str, str]]  # controller, state, provider, template
    requests: Iterable[tuple[str, str]]  # controller, state
    oldest_s: Mapping[str, float]  # by controller
    capacity: Mapping[str, int]  # by provider
    breakers: Iterable[tuple[str, str, bool]]  # provider, template, open
    controllers_up: Mapping[str, bool]
    modes: Mapping[str, str]
    controller_requests: Mapping[str, Mapping[tuple[str, str], int]]  # controller → (op, code) → how many
    places: Iterable[tuple[str, str, str]] = ()  # controller, provider, template that the configuration brings together


class Metrics:
    """All series of one sidecar."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._phases = {
            name: Histogram(_PREFIX + name, text, ["controller"], buckets=_BUCKETS, registry=self._registry)
            for name, text in _PHASES.items()
        }
        self._agents = self._gauge("agents", "Agents that exist.", "controller", "state", "provider", "template")
        self._requests = self._gauge("requests", "Requests that have not left the queue.", "controller", "state")
        self._oldest = self._gauge("oldest_request_age_seconds", "Age of the oldest waiting request.", "controller")
        self._capacity = self._gauge("capacity", "Agents that the provider may hold.", "provider")
        self._breakers = self._gauge("breaker_open", "1 while the circuit breaker is open.", "provider", "template")
        self._up = self._gauge("controller_up", "1 while the controller answers.", "controller")
        self._mode = self._gauge("bridge_mode", "1 for the mode in force.", "controller", "mode")
        self._gauge("build_info", "The version that runs.", "version").labels(__version__).set(1)
        self._launches = self._counter("launches", "Launches.", "controller", "template", "result", "reason")
        self._orphans = self._counter("orphans_removed", "Orphans removed.", "kind")
        self._errors = self._counter("errors", "Errors.", "reason")
        self._calls = self._counter("controller_requests", "HTTP requests to controllers.", "controller", "op", "code")
        self._calls_seen: Tally[tuple[str, str, str]] = Tally()
        for kind in _ORPHAN_KINDS:
            self._orphans.labels(kind)
        for reason in Reason:
            self._errors.labels(reason.value)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, text, labels, registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self._registry)

    def expect(self, *, controllers: Iterable[str], templates: Iterable[str]) -> None:
        """Make the series of the configured names exist. Idempotent."""
        templates = tuple(templates)
        for controller in controllers:
            for phase in self._phases.values():
                phase.labels(controller)
            for op in _OPS:
                self._calls.labels(controller, op, "200")
            for template in templates:
                self._launches.labels(controller, template, "ok", "")
                for reason in Reason:
                    self._launches.labels(controller, template, "failed", reason.value)

    def phase(self, name: str, controller: str, seconds: float) -> None:
        """One observation of a histogram, by its name without the prefix."""
        self._phases[name].labels(controller).observe(max(0.0, seconds))

    def launch(self, controller: str, template: str, reason: Reason | None) -> None:
        """A launch ended: connected (no reason) or failed."""
        result = "failed" if reason else "ok"
        self._launches.labels(controller, template, result, reason.value if reason else "").inc()

    def orphan_removed(self, kind: str) -> None:
        """A sweep removed something of ours that belonged to no agent."""
        self._orphans.labels(kind).inc()

    def error(self, reason: Reason) -> None:
        """An error was met, whatever came of it."""
        self._errors.labels(reason.value).inc()

    def render(self, now: Population) -> bytes:
        """The text of a scrape."""
        self._fill(now)
        return generate_latest(self._registry)

    def _fill(self, now: Population) -> None:
        self._agents.clear()
        for controller, provider, template in now.places:
            for state in _LIVE_STATES:
                self._agents.labels(controller, state, provider, template).set(0)
        controllers = tuple(now.controllers_up)
        for labels, count in Tally(now.agents).items():
            self._agents.labels(*labels).set(count)
        requests = Tally(now.requests)
        for controller in controllers:
            for state in RequestState:
                if state is not RequestState.DONE:
                    self._requests.labels(controller, state.value).set(requests[(controller, state.value)])
            self._oldest.labels(controller).set(now.oldest_s.get(controller, 0.0))
            self._up.labels(controller).set(now.controllers_up[controller])
            for mode in _MODES:
                self._mode.labels(controller, mode).set(now.modes.get(controller) == mode)
        self._capacity.clear()
        for provider, agents in now.capacity.items():
            self._capacity.labels(provider).set(agents)
        self._breakers.clear()
        for provider, template, is_open in now.breakers:
            self._breakers.labels(provider, template).set(is_open)
        self._count_calls(now.controller_requests)

    def _count_calls(self, by_controller: Mapping[str, Mapping[tuple[str, str], int]]) -> None:
        for controller, calls in by_controller.items():
            for (op, code), count in calls.items():
                key = (controller, op, code)
                self._calls.labels(*key).inc(max(0, count - self._calls_seen[key]))
                self._calls_seen[key] = count
