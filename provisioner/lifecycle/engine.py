"""All loops of the lifecycle under one roof: observers, planner, reconcilers, sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import structlog

from provisioner.lifecycle.agent_task import AgentTask
from provisioner.lifecycle.credential_sweep import CredentialSweep
from provisioner.lifecycle.desk import Desk
from provisioner.lifecycle.failing import Failing
from provisioner.lifecycle.observer import Observer
from provisioner.lifecycle.outlook import Outlook
from provisioner.lifecycle.patience import Patience
from provisioner.lifecycle.planner import Planner
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.lifecycle.steps import AgentSteps
from provisioner.lifecycle.sweep import InstanceSweep, NodeSweep
from provisioner.model.agent import Agent, AgentState, Target
from provisioner.model.errors import Reason
from provisioner.records.store import StoreError

log = structlog.get_logger()

_PRUNE_EVERY_S = 300.0
_KEEP_GONE = timedelta(hours=24)
_AFTER_FAULT_S = 1.0


class Engine:
    """The lifecycle of every request and agent of one sidecar."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._steps = AgentSteps(desk)
        self.failing = Failing(desk)
        self.planner = Planner(desk, self.launch, self.failing)
        self.patience = Patience(desk, Outlook(self))
        self.node_sweeps = {name: NodeSweep(desk, c, self.adopt) for name, c in desk.controllers.items()}
        self.instance_sweeps = {name: InstanceSweep(desk, p) for name, p in desk.providers.items()}
        self.credential_sweeps = {name: CredentialSweep(desk, c) for name, c in desk.controllers.items()}
        for name, sweep in self.instance_sweeps.items():
            desk.providers[name].count = sweep.look
        self._group: asyncio.TaskGroup | None = None

    def take_over(self) -> int:
        """Put every agent of the records back to work after a restart; how many."""
        for agent in self.desk.store.live_agents():
            if agent.controller not in self.desk.controllers or agent.provider not in self.desk.providers:
                log.error(
                    "agent.unreachable",
                    agent=agent.name,
                    problem=f"the configuration no longer has controller {agent.controller} or provider "
                    f"{agent.provider}; put it back until this agent is gone",
                )
                continue
            self._work_on(agent, taken_over=True)
            # one that failed is on its way out, and another may have been planned in its place already
            coming = agent.target is Target.SERVE and agent.state is not AgentState.REMOVING
            if agent.request is not None and coming:
                self.desk.book.expect(agent.request, agent)
        return len(self.desk.agents)

    def launch(self, agent: Agent) -> None:
        """Write a planned agent down and put someone to work on it."""
        self.desk.store.save_agent(agent, self.desk.clock.now())
        self._work_on(agent, taken_over=False)

    def adopt(self, agent: Agent) -> None:
        """Write an agent down that was found at work, and put someone to work on it."""
        self.desk.store.save_agent(agent, self.desk.clock.now())
        self._work_on(agent, taken_over=True)
        self.desk.agents[agent.name].facts.started = True

    def _work_on(self, agent: Agent, *, taken_over: bool) -> None:
        task = AgentTask(
            agent,
            store=self.desk.store,
            clock=self.desk.clock,
            steps=self._steps,
            taken_over=taken_over,
            on_failed=self.failing.launch_failed,
            on_gone=self._gone,
        )
        self.desk.enter(task)
        self.desk.errand(task.run(), name=f"agent {agent.name}")

    def _gone(self, agent: Agent) -> None:
        task = self.desk.agents[agent.name]
        self.desk.leave(task)
        task.log.wake()
        self.desk.book.released(agent)
        self.desk.plan_again.set()
        marks = {state: round((at - agent.created_at).total_seconds(), 3) for state, at in agent.marks.items()}
        log.info(
            "agent.done",
            agent=agent.name,
            template=agent.template,
            provider=agent.provider,
            reason=agent.reason.value if agent.reason else "",
            **marks,
        )

    def ended(self, agent: str) -> None:
        """A provider saw an instance end."""
        if task := self.desk.agents.get(agent):
            task.facts.ended = True
            task.facts.touch()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for name, controller in self.desk.controllers.items():
                watch = Observer(self.desk, controller, self.node_sweeps[name]).run
                group.create_task(self._forever(watch), name=f"watch {name}")
                credentials = self.credential_sweeps[name].run
                group.create_task(self._forever(credentials), name=f"credentials {name}")
            for provider in self.desk.providers.values():
                self._look_after(provider, group)
            group.create_task(self._forever(self.planner.run), name="planner")
            group.create_task(self._forever(self.patience.run), name="patience")
            group.create_task(self._forever(self._prune), name="prune")

    def add_provider(self, provider: ProviderHandle) -> None:
        """Work with one more provider, from now on."""
        sweep = self.instance_sweeps[provider.name] = InstanceSweep(self.desk, provider)
        provider.count = sweep.look
        self.desk.providers[provider.name] = provider
        if self._group is not None:
            self._look_after(provider, self._group)

    def _look_after(self, provider: ProviderHandle, group: asyncio.TaskGroup) -> None:
        provider.on_change = self._provider_changed
        provider.on_lost = partial(self.desk.metrics.error, Reason.PROVIDER_UNREACHABLE)
        provider.on_ended = self.ended
        tick = f"provider {provider.name}"
        watch = partial(provider.watch, self.desk.clock, partial(self.desk.tick, tick))
        group.create_task(self._forever(watch), name=tick)
        sweep = self.instance_sweeps[provider.name].run
        group.create_task(self._forever(sweep), name=f"sweep {provider.name}")

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """One loop; what it stumbles over is told, and it begins anew, with a look at the whole truth."""
        while True:
            try:
                await loop()
            except StoreError as error:
                log.warning("loop.waits", problem=error.message)
            except Exception:
                log.exception("loop.fault")
            await self.desk.clock.sleep(_AFTER_FAULT_S)

    def _provider_changed(self) -> None:
        self.desk.plan_again.set()
        for task in self.desk.agents.values():
            task.facts.hurry = True
            task.facts.touch()

    async def _prune(self) -> None:
        while True:
            self.desk.store.prune(self.desk.clock.now(), _KEEP_GONE)
            await self.desk.clock.sleep(_PRUNE_EVERY_S)
