"""Agents that the controller dials: when it is told to, what it says of it, and who is told that the agent is gone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from provisioner.config.kinds import BackendKind
from provisioner.controller.port import Dial
from provisioner.lifecycle.orders import node_order
from provisioner.model.errors import ControllerError, LaunchError, Reason
from provisioner.transports import transport
from provisioner.transports.dialling import Dialled, Instance, NotYet, Whom

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import ControllerHandle, Desk
    from provisioner.lifecycle.providers import ProviderHandle

log = structlog.get_logger()

#: The mark on a record that the controller was told whom to dial.
DIALLED_MARK = "dialled"

_LOOK_FIRST_S = 0.05
_LOOK_MOST_S = 0.5
#: What Jenkins' launcher writes when it gives up, and when the host key is not the pinned one.
_GAVE_UP = "Launch failed - cleaning up connection"
_WRONG_KEY = ("does not match", "key verification was not successful", "not trusted")


def dial_of(whom: Whom, *, timeout_s: float) -> Dial:
    """What the controller is told.

    Args:
        whom: whom it dials.
        timeout_s: how long that may take, within bounds that make sense to a launcher.
    """
    return Dial(
        host=whom.address.host,
        port=whom.address.port,
        host_key=whom.host_key,
        user=whom.user,
        private_key=whom.private_key,
        java=whom.java,
        java_options=whom.java_options,
        prefix=whom.prefix,
        suffix=whom.suffix,
        timeout_s=max(5.0, min(60.0, timeout_s)),
    )


def is_dialled(desk: Desk, task: AgentTask) -> bool:
    """Whether the controller dials this agent; a static node has a connection of its own."""
    kind = desk.providers[task.agent.provider].kind
    return kind != BackendKind.STATIC and transport(task.template.transport.value).dialled


class Dialling:
    """What is done for every agent that is dialled, whichever transport says whom."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def dial(self, task: AgentTask, secret: str, left_s: float) -> NotYet | None:
        """Meet the instance and tell the controller whom to dial; None then, else why it cannot be met so far.

        Args:
            task: the agent; it may be doomed or its instance end meanwhile, and this returns.
            secret: the node's.
            left_s: how long the instance may take.

        Raises:
            LaunchError: what answers is not the instance; whatever cannot become better by waiting.
            ControllerError: the controller could not be told; call again.
        """
        controller, provider = self._handles(task)
        jar = hashlib.sha256(await controller.port.agent_jar()).hexdigest()
        way, instance = self._way(task), self._instance(task, secret, provider, jar)
        clock, facts = task.clock, task.facts
        deadline, pause_s = clock.monotonic() + left_s, _LOOK_FIRST_S
        while isinstance(met := await way.meet(instance), NotYet):
            waits_s = min(pause_s, deadline - clock.monotonic())
            if waits_s <= 0 or task.doomed or facts.ended or facts.vanished:
                return met
            await facts.wait(lambda: task.doomed or facts.ended or facts.vanished, clock, waits_s)
            pause_s = min(_LOOK_MOST_S, pause_s * 2)
        request = self._desk.book.get(task.agent.request)
        order = node_order(task.agent, task.template, request.item if request else None, instance.root)
        await controller.port.dial(order, dial_of(met, timeout_s=left_s))
        task.save(replace(task.agent, marks={**task.agent.marks, DIALLED_MARK: clock.now()}))
        task.log.say(f"The controller dials {met.address.host} port {met.address.port}")
        return None

    async def gave_up(self, task: AgentTask) -> LaunchError | None:
        """Why the controller has given the connection up; None while it has not, or does not say."""
        controller, _ = self._handles(task)
        try:
            lines = await controller.port.launch_tail(task.agent.name)
        except ControllerError as error:
            log.info("launch_log.unread", agent=task.agent.name, problem=error.message)
            return None
        if not any(_GAVE_UP in line for line in lines):
            return None
        self.tell_tail(task, lines)
        if any(words in line for line in lines for words in _WRONG_KEY):
            return LaunchError(
                "another SSH server than the instance's answered the controller: its host key is not the one that "
                f"{task.agent.name} was given",
                reason=Reason.HOST_KEY_MISMATCH,
            )
        return LaunchError(
            "the controller could not start the agent over SSH; its own words are above", reason=Reason.CONNECT_TIMEOUT
        )

    async def last_words(self, task: AgentTask) -> None:
        """Put what the controller says of the connection into the launch log."""
        controller, _ = self._handles(task)
        try:
            self.tell_tail(task, await controller.port.launch_tail(task.agent.name))
        except ControllerError as error:
            log.info("launch_log.unread", agent=task.agent.name, problem=error.message)

    @staticmethod
    def tell_tail(task: AgentTask, lines: tuple[str, ...]) -> None:
        """The lines, into the launch log."""
        if lines:
            task.log.say("What the controller says of the connection:", *(f"    {line}" for line in lines))

    def dials(self, task: AgentTask) -> bool:
        """Whether the controller dials this agent."""
        return is_dialled(self._desk, task)

    async def tail(self, task: AgentTask) -> tuple[str, ...]:
        """The last lines of an instance's output, whoever keeps them.

        Raises:
            LaunchError: the provider does not answer.
        """
        _, provider = self._handles(task)
        lines = await provider.backend.log_tail(task.agent.name, task.agent.ids)
        if not lines and self.dials(task):
            lines = await self._way(task).last_words(task.agent.name)
        return lines

    async def part(self, task: AgentTask) -> None:
        """The agent is gone: whoever kept something for it forgets that. Idempotent."""
        if not is_dialled(self._desk, task):
            return
        await self._way(task).part(task.agent.name)

    def _way(self, task: AgentTask) -> Dialled:
        name = task.template.transport.value
        way = self._desk.dialled.get(name)
        if way is None:
            raise LaunchError(f"the transport `{name}` is not built in", reason=Reason.TEMPLATE_INVALID)
        return way

    def _instance(self, task: AgentTask, secret: str, provider: ProviderHandle, jar: str) -> Instance:
        agent, backend = task.agent, provider.backend
        return Instance(
            agent=agent.name,
            owner=agent.owner,
            secret=secret,
            template=agent.spec,
            provider=agent.provider,
            backend=provider.kind,
            jar=jar,
            ids=agent.ids,
            root=backend.remote_root(agent.owner, agent.name, task.template.remote_fs),
            java=backend.java(task.template.java.value),
            address=lambda: backend.address(agent.name, agent.ids),
        )

    def _handles(self, task: AgentTask) -> tuple[ControllerHandle, ProviderHandle]:
        return self._desk.controllers[task.agent.controller], self._desk.providers[task.agent.provider]
