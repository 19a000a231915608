"""What an operator may ask of a sidecar at work: look up, keep, remove, drain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING

import structlog

from provisioner.lifecycle.holding import HOLD_S
from provisioner.lifecycle.orphans import Orphan
from provisioner.lifecycle.telling import tell
from provisioner.model.agent import Agent, AgentState
from provisioner.model.errors import ControllerError, ProvisionerError, Reason

if TYPE_CHECKING:
    from provisioner.controller.port import Snapshot
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import Desk
    from provisioner.lifecycle.engine import Engine
    from provisioner.lifecycle.providers import ProviderHandle

log = structlog.get_logger()

_DRAINED = "drained"
_BUILD_RUNS = frozenset({AgentState.RUNNING})
#: The node may be there and may take its build at any moment.
_MAY_START = frozenset({AgentState.STARTING, AgentState.CONNECTING, AgentState.IDLE})

#: A line of a launch log: its number from 0, when it was said (ISO 8601), its text.
Line = tuple[int, str, str]


class Unknown(ProvisionerError):  # noqa: N818  (a name, not a fault of ours)
    """Nothing of that name is here."""


class Refused(ProvisionerError):  # noqa: N818  (an answer, not a fault of ours)
    """It cannot be done as things stand; the message says what would have to change."""


class Operations:
    """One for each sidecar. Everything is on disk, or refused, when a call returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._desk: Desk = engine.desk

    # -- agents

    def agent(self, name: str) -> Agent:
        """An agent, live or gone.

        Raises:
            Unknown: there is none of that name, or it is gone for so long that it was forgotten.
        """
        if task := self._desk.agents.get(name):
            return task.agent
        if name.isascii() and name.isprintable() and (agent := self._desk.store.agent(name)) is not None:
            return agent
        raise unknown("agent", name, self._desk.agents)

    def lines(self, name: str, since: int = 0) -> list[Line]:
        """The agent's launch log from line `since` on."""
        self.agent(name)
        return self._desk.store.lines(name, since)

    async def follow(self, name: str, since: int, wake_s: float) -> AsyncIterator[list[Line]]:
        """The launch log as it grows, until the agent is gone; an empty list at least every `wake_s` seconds."""
        self.agent(name)
        while True:
            task = self._desk.agents.get(name)
            # taken before the lines are read: what is said after that is not missed
            grew = task.log.grew if task else None
            lines = self._desk.store.lines(name, since)
            if lines:
                since = lines[-1][0] + 1
                yield lines
            if grew is None:
                return
            try:
                async with asyncio.timeout(wake_s):
                    await grew.wait()
            except TimeoutError:
                yield []

    def hold(self, name: str, *, for_s: float = HOLD_S, reason: str = "") -> Agent:
        """Keep an agent after its build, for debugging; asked again, the new time holds.

        Raises:
            Unknown: there is no such agent.
            Refused: it is gone or being removed.
        """
        task = self._live(name, "be held")
        until = self._desk.clock.now() + timedelta(seconds=for_s)
        task.save(replace(task.agent, held_until=until, hold_reason=reason))
        why = f" ({reason})" if reason else ""
        task.log.say(f"It is held for debugging until {until:%Y-%m-%d %H:%M:%S} UTC{why}; no other build runs on it")
        tell(self._desk, task)
        task.facts.touch()
        log.info("agent.hold", agent=name, until=until.isoformat(), reason=reason)
        return task.agent

    def release(self, name: str) -> Agent:
        """End a hold; the agent goes as soon as its build is over. Idempotent.

        Raises:
            Unknown: there is no such agent.
            Refused: it is gone or being removed.
        """
        task = self._live(name, "be released")
        if task.agent.held_until is not None:
            task.save(replace(task.agent, held_until=None))
            if task.agent.state is not AgentState.FINISHED:
                task.log.say("It is no longer held; it goes when its build is over")
                tell(self._desk, task)
            task.facts.touch()
            log.info("agent.release", agent=name)
        return task.agent

    async def delete(self, name: str) -> Agent:
        """Have an agent removed that runs no build. Gone or going already is done.

        Raises:
            Unknown: there is no such agent.
            Refused: a build runs on it, or the controller cannot say whether one does.
        """
        task = self._desk.agents.get(name)
        if task is None or task.agent.state is AgentState.REMOVING:
            return self.agent(name)
        self._refuse_running(task)
        sure = True
        if task.agent.state in _MAY_START and not task.doomed:
            sure = await self._bar(task)
            self._refuse_running(task)
        return self._delete(task, Reason.CANCELLED if sure else None)

    def delete_now(self, name: str) -> Agent:
        """Have an agent removed, with the build that may run on it. Gone or going already is done.

        Raises:
            Unknown: there is no such agent.
        """
        task = self._desk.agents.get(name)
        return self.agent(name) if task is None else self._delete(task)

    def _delete(self, task: AgentTask, reason: Reason | None = Reason.CANCELLED) -> Agent:
        if task.agent.state is not AgentState.REMOVING and not task.doomed:
            log.info("agent.delete", agent=task.agent.name, state=task.agent.state.value)
            task.log.say("It is removed: an operator said so")
            task.want_gone(reason, "an operator deleted it")
        return task.agent

    async def _bar(self, task: AgentTask) -> bool:
        """Close the node, so that no build gets onto it between the look and the removal.

        Looked at before, since one that is closed and stays would keep its build waiting; and again after.

        Returns:
            Whether it is sure that no build runs on it; if not, the removal waits until it is.
        """
        port = self._desk.controllers[task.agent.controller].port
        name = task.agent.name
        try:
            self._refuse_busy(name, await port.snapshot())
            await port.bar(name)
        except ControllerError as error:
            if error.code == 404:
                return True  # it has no node yet
            raise Refused(
                f"whether a build runs on {name} cannot be told: {error.message}; delete it with --now "
                "(over HTTP now=true) in any case",
            ) from error
        try:
            self._refuse_busy(name, await port.snapshot())
        except ControllerError as error:
            log.info("agent.not_seen", agent=name, problem=error.message)
            return False
        return True

    @staticmethod
    def _refuse_busy(name: str, seen: Snapshot) -> None:
        if any(node.name == name and node.busy for node in seen.nodes):
            raise Refused(f"a build runs on {name}; wait for its end, or delete it with --now (over HTTP now=true)")

    def _refuse_running(self, task: AgentTask) -> None:
        if task.agent.state in _BUILD_RUNS or (task.facts.started and not task.facts.finished):
            raise Refused(
                f"a build runs on {task.agent.name}; wait for its end, or delete it with --now (over HTTP now=true)"
            )

    def _live(self, name: str, wish: str) -> AgentTask:
        agent = self.agent(name)
        task = self._desk.agents.get(name)
        if task is None or not agent.live or agent.state is AgentState.REMOVING or task.doomed:
            what = "is gone" if not agent.live else "is being removed"
            raise Refused(f"agent {name} {what} and cannot {wish}")
        return task

    # -- providers

    def provider(self, name: str) -> ProviderHandle:
        """One provider.

        Raises:
            Unknown: the configuration has none of that name.
        """
        if found := self._desk.providers.get(name):
            return found
        raise unknown("provider", name, self._desk.providers)

    def drain(self, name: str) -> None:
        """Place nothing new at a provider, also after a restart; agents that are there stay. Idempotent."""
        self._set_drained(self.provider(name), drained=True)

    def resume(self, name: str) -> None:
        """Place at a provider again, also where launches failed or there was no room. Idempotent."""
        self._desk.breakers.forget(self.provider(name).name)
        self._desk.refusals.forget(name)
        self._desk.plan_again.set()
        self._set_drained(self.provider(name), drained=False)

    def _set_drained(self, provider: ProviderHandle, *, drained: bool) -> None:
        if provider.drained is drained:
            return
        provider.drained = drained
        names = sorted(name for name, handle in self._desk.providers.items() if handle.drained)
        self._desk.store.set_meta(_DRAINED, json.dumps(names))
        self._desk.plan_again.set()
        log.info("provider.drained" if drained else "provider.resumed", provider=provider.name)

    # -- orphans

    def orphans(self) -> list[Orphan]:
        """What carries our mark and belongs to no agent, as the last passes saw it."""
        engine = self._engine
        return [
            *(orphan for sweep in engine.node_sweeps.values() for orphan in sweep.orphans),
            *(orphan for sweep in engine.instance_sweeps.values() for orphan in sweep.orphans),
            *(orphan for sweep in engine.credential_sweeps.values() for orphan in sweep.orphans),
        ]

    async def delete_orphans(self) -> tuple[list[Orphan], list[Orphan]]:
        """Remove at once what two passes saw; what was removed, and what stays for now."""
        before = self.orphans()
        for nodes in self._engine.node_sweeps.values():
            await nodes.remove_seen()
        for instances in tuple(self._engine.instance_sweeps.values()):
            await instances.remove_seen()
        for credentials in self._engine.credential_sweeps.values():
            await credentials.remove_seen()
        after = {(o.where, o.kind, o.id) for o in self.orphans()}
        removed = [o for o in before if (o.where, o.kind, o.id) not in after]
        return removed, [o for o in before if o not in removed]


def restore_drained(desk: Desk) -> None:
    """Put in force again what `drain` said to an earlier process."""
    stored = desk.store.meta(_DRAINED)
    for name in json.loads(stored) if stored else ():
        if name in desk.providers:
            desk.providers[name].drained = True


def unknown(kind: str, name: str, known: Iterable[str]) -> Unknown:
    """There is no `name`; the message offers what was meant."""
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    names = list(known)
    close = get_close_matches(name[:200], names, n=3) or [n for n in names if n.endswith(name[-13:])][:3]
    if close:
        more = f"; did you mean {' or '.join(close)}?"
    elif kind == "agent" or not names:
        more = ""
    else:
        more = f"; there is {', '.join(sorted(names)[:10])}"
    return Unknown(f"there is no {kind} {shown!r}{more}")
