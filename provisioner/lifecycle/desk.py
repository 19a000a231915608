"""What all parts of the lifecycle share: records, clock, controllers, providers, and who is at work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from provisioner.config import Settings
from provisioner.controller.port import Controller
from provisioner.lifecycle.agent_task import AgentTask
from provisioner.lifecycle.breakers import Breakers
from provisioner.lifecycle.clock import Clock
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.lifecycle.refusals import Refusals
from provisioner.lifecycle.requests import RequestBook
from provisioner.model.agent import Agent
from provisioner.model.queue import ItemKind, RequestKey
from provisioner.model.request import Request
from provisioner.records.store import Store
from provisioner.telemetry.metrics import Metrics
from provisioner.transports.dialling import Dialled

log = structlog.get_logger()

#: Of so many builds that were ended it can be told why, to who asks for the item afterwards.
_ENDED_KEPT = 500


@dataclass(slots=True, kw_only=True)
class ControllerHandle:
    """One controller and what is known of it now."""

    name: str
    agent_url: str
    port: Controller
    up: bool = False
    seen: bool = False  # a complete snapshot has come since this process runs: absence means something
    unseen: str = ""  # what the last snapshot lacked, and why
    problem: str = "not reached yet"
    quieting_down: bool = False
    session: str = ""
    last_contact: float = 0.0  # monotonic
    strangers: frozenset[str] = frozenset()  # nodes with our mark and no record here


@dataclass(slots=True, kw_only=True)
class Desk:
    """The shared state of one sidecar; touched from the event loop's thread only."""

    settings: Settings
    store: Store
    clock: Clock
    metrics: Metrics
    controllers: dict[str, ControllerHandle] = field(default_factory=dict)
    providers: dict[str, ProviderHandle] = field(default_factory=dict)
    agents: dict[str, AgentTask] = field(default_factory=dict)
    by_request: dict[RequestKey, AgentTask] = field(default_factory=dict)
    book: RequestBook
    dialled: dict[str, Dialled] = field(default_factory=dict)  # by transport
    breakers: Breakers = field(init=False)
    refusals: Refusals = field(init=False)
    plan_again: asyncio.Event = field(default_factory=asyncio.Event)
    ended: deque[Request] = field(default_factory=lambda: deque(maxlen=_ENDED_KEPT))  # by us, the latest last
    ticks: dict[str, float] = field(default_factory=dict)  # last turn of each loop, monotonic
    _errands: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.breakers = Breakers(self.store, self.clock, self.versions())
        self.refusals = Refusals(self)

    def versions(self) -> dict[str, str]:
        """Each template's version, by its name."""
        return {template.name: template.version for template in self.settings.templates}

    @property
    def strangers(self) -> frozenset[str]:
        """Nodes of ours that no record knows, of all controllers: the state file was lost."""
        return frozenset().union(*(c.strangers for c in self.controllers.values()))

    def enter(self, task: AgentTask) -> None:
        """An agent is at work."""
        self.agents[task.agent.name] = task
        if task.agent.request is not None:
            self.by_request[task.agent.request] = task

    def leave(self, task: AgentTask) -> None:
        """An agent is gone."""
        self.agents.pop(task.agent.name, None)
        if task.agent.request is not None and self.by_request.get(task.agent.request) is task:
            del self.by_request[task.agent.request]

    def rekey(self, task: AgentTask, request: RequestKey, kind: ItemKind | None, *, mark: str = "") -> None:
        """An agent serves another request than it was made for; `mark` is set in the same write."""
        if task.agent.request is not None and self.by_request.get(task.agent.request) is task:
            del self.by_request[task.agent.request]
        task.rekey(request, kind, mark=mark)
        self.by_request[request] = task

    def agents_of(self, controller: str) -> Iterable[AgentTask]:
        """The live agents of one controller."""
        return [task for task in self.agents.values() if task.agent.controller == controller]

    def connected(self, agent: Agent) -> None:
        """An agent came online for the first time: its launch worked, and no longer counts as one."""
        self.metrics.launch(agent.controller, agent.template, None)
        self.breakers.worked(agent)
        self.plan_again.set()

    def agent_url(self, agent: Agent) -> str:
        """The controller as an agent reaches it from where it runs."""
        return self.providers[agent.provider].agent_url or self.controllers[agent.controller].agent_url

    def tick(self, loop: str) -> None:
        """A loop says that it is alive."""
        self.ticks[loop] = self.clock.monotonic()

    def errand(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run something beside the loops; a failure is logged and never ends them."""
        task = asyncio.create_task(work, name=name)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)
        return task

    def _errand_done(self, task: asyncio.Task[Any]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("errand.failed", errand=task.get_name(), error=str(error), exc_info=error)

    async def end_errands(self) -> None:
        """Cancel what is still under way; everything is taken up again at the next start."""
        for task in tuple(self._errands):
            task.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)
