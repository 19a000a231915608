"""One agent's reconciler: closes the gap between its record and the wanted state, one step at a time.

Each state has one step. A step may be cut short at any instant, by the death of the process too, and be
taken again from the record: acts are idempotent, and what they found out is written before the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from provisioner.config import Template
from provisioner.config.salvage import salvaged_template
from provisioner.lifecycle.facts import Facts
from provisioner.lifecycle.launch_log import LaunchLog
from provisioner.model.agent import Agent, AgentState, Target
from provisioner.model.errors import ConfigError, ControllerError, LaunchError, ProvisionerError, Reason
from provisioner.model.queue import ItemKind, RequestKey
from provisioner.records.store import StoreError

if TYPE_CHECKING:
    from provisioner.lifecycle.clock import Clock
    from provisioner.records.store import Store

log = structlog.get_logger()

_RETRY_FIRST_S = 0.5
_RETRY_MOST_S = 30.0
_MOST_INTERNAL_ERRORS = 5


class Steps(Protocol):
    """What is done in each state; returns when the state is left, having moved the agent."""

    async def take(self, task: AgentTask) -> None:
        """Take the step of the agent's present state."""
        ...


class AgentTask:
    """The one who works on an agent. Everybody else only writes facts and the target."""

    def __init__(
        self,
        agent: Agent,
        *,
        store: Store,
        clock: Clock,
        steps: Steps,
        taken_over: bool,
        on_failed: Callable[[Agent, ProvisionerError], None],
        on_gone: Callable[[Agent], None],
    ) -> None:
        self.agent = agent
        #: as it was when the agent was planned, whatever the configuration says now
        self.template, self.misread = _template_of(agent)
        self.facts = Facts()
        self.clock = clock
        self.log = LaunchLog(agent.name, store, clock)
        #: whether an earlier process began with this agent, so that a step may have been cut short
        self.taken_over = taken_over
        #: the node's, while this process has it at hand; never stored
        self.secret: str | None = None
        self._began = clock.monotonic()
        self._lived_before_s = (clock.now() - agent.created_at).total_seconds() if taken_over else 0.0
        #: when each mark was set, by the clock that does not jump; of an earlier process's as far as can be told
        self._marked = {m: self._began - max(0.0, (clock.now() - at).total_seconds()) for m, at in agent.marks.items()}
        self._store = store
        self._steps = steps
        self._on_failed = on_failed
        self._on_gone = on_gone
        self._internal_errors: list[Exception] = []

    @property
    def doomed(self) -> bool:
        """Whether it is wanted gone."""
        return self.agent.target is Target.GONE

    @property
    def lived_s(self) -> float:
        """Seconds since it was planned; a jump of the wall clock counts at a restart only."""
        return max(0.0, self._lived_before_s) + self.clock.monotonic() - self._began

    def passed_s(self, mark: str) -> float | None:
        """Seconds since a mark was set; None if it was not."""
        return None if mark not in self._marked else self.clock.monotonic() - self._marked[mark]

    def save(self, agent: Agent) -> None:
        """Put the record on disk and in force."""
        self._store.save_agent(agent, self.clock.now())
        for mark in agent.marks.keys() - self.agent.marks.keys():
            self._marked[mark] = self.clock.monotonic()
        self._store.if_undone(partial(self._put_back, self.agent))
        self.agent = agent

    def _put_back(self, agent: Agent) -> None:
        self.agent = agent

    def move(self, state: AgentState) -> None:
        """Go to another state; on disk when this returns."""
        self.save(self.agent.moved(state, self.clock.now()))
        log.debug("agent.moved", agent=self.agent.name, state=state.value)

    def want_gone(self, reason: Reason | None, detail: str) -> None:
        """Write the target; the first reason stays. Idempotent."""
        if self.doomed or not self.agent.live:
            return
        self.save(
            replace(
                self.agent, target=Target.GONE, reason=self.agent.reason or reason, detail=self.agent.detail or detail
            )
        )
        self.facts.touch()

    def rekey(self, request: RequestKey | None, kind: ItemKind | None, *, mark: str = "") -> None:
        """It serves another request than it was made for; `mark` is set in the same write."""
        marks = {**self.agent.marks, mark: self.clock.now()} if mark else self.agent.marks
        self.save(replace(self.agent, request=request, kind=kind, marks=marks))

    def keep(self) -> None:
        """Take a wish to have it gone back: a build turned out to run on it."""
        self.save(replace(self.agent, target=Target.SERVE, reason=None, detail=""))

    def fail(self, error: ProvisionerError) -> None:
        """The agent did not get as far as its build: tell why, and take it down."""
        # all or nothing: a launch that failed counts once, at whichever instant the process dies or the disk is full
        with self._store.together():
            if not self.agent.reason:
                self.save(replace(self.agent, reason=error.reason, detail=error.message))
            self._on_failed(self.agent, error)
            self.move(AgentState.REMOVING)

    async def run(self) -> None:
        """Work until the agent is gone."""
        pause_s = _RETRY_FIRST_S
        while self.agent.live:
            state = self.agent.state
            try:
                await self._turn(state)
                pause_s = _RETRY_FIRST_S
                continue
            except (LaunchError, ControllerError, StoreError) as error:
                # A failed teardown stays a record that is tried again, never "gone".
                log.warning("agent.retry", agent=self.agent.name, state=state.value, problem=error.message)
            except Exception as error:
                self._internal_errors.append(error)
                log.exception("agent.fault", agent=self.agent.name, state=state.value)
            await self._pause(pause_s)
            pause_s = min(_RETRY_MOST_S, pause_s * 2)
        self._on_gone(self.agent)

    async def _turn(self, state: AgentState) -> None:
        if len(self._internal_errors) >= _MOST_INTERNAL_ERRORS and state is not AgentState.REMOVING:
            self.fail(ProvisionerError(f"internal error while {state.value}: {self._internal_errors[-1]!r}"))
            return
        try:
            await self._steps.take(self)
        except (LaunchError, ControllerError) as error:
            if state is AgentState.REMOVING or error.retryable:
                raise
            self.fail(error)

    async def _pause(self, pause_s: float) -> None:
        was_doomed = self.doomed
        self.facts.hurry = False
        await self.facts.wait(lambda: self.facts.hurry or (self.doomed and not was_doomed), self.clock, pause_s)


def _template_of(agent: Agent) -> tuple[Template, str]:
    """What it was made from, and what of it this release cannot read: another one may have planned the agent.

    What exists is looked after with the rest; nothing more is started from that, which would be less than was asked.
    """
    try:
        return Template.from_spec(agent.spec), ""
    except ConfigError as error:
        log.warning("agent.other_release", agent=agent.name, state=agent.state.value, problem=error.message)
        return salvaged_template(agent.spec, name=agent.template, provider=agent.provider), error.message
