"""What is done in each state of an agent's life, from the planned record to the removed one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from provisioner.backends.contract import Checkpoint, Progress
from provisioner.controller.port import BridgeMode
from provisioner.lifecycle import agent_port
from provisioner.lifecycle.deadlines import connect_left_s, life_left, time_left
from provisioner.lifecycle.dialling import DIALLED_MARK, Dialling
from provisioner.lifecycle.ending import death, ended, error_lines, failure_of, out_of_time, take_down
from provisioner.lifecycle.holding import RELEASED_MARK, hold_if_failed, keep_held
from provisioner.lifecycle.orders import instance_order, node_order
from provisioner.lifecycle.secret_files import secret_files
from provisioner.lifecycle.standby import GIVEN_MARK
from provisioner.lifecycle.telling import measure, measure_queue, tell, tell_connected
from provisioner.lifecycle.untaken import Untaken
from provisioner.model.agent import AgentState
from provisioner.model.errors import ControllerError, LaunchError, Reason

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import ControllerHandle, Desk
    from provisioner.lifecycle.providers import ProviderHandle

log = structlog.get_logger()

#: How often an instance is looked at although nothing was heard, in case an event was lost.
_LOOK_WHILE_CONNECTING_S = 5.0
_LOOK_WHILE_IDLE_S = 5.0
_LOOK_WHILE_RUNNING_S = 30.0
#: How long a controller may take to end the build of an instance that died, before the node is removed.
_LAST_WORD_S = 3.0
#: How long lines of a launch that takes its time wait for more lines before they are told.
_TELL_EVERY_S = 1.0
_BEFORE_CONNECTING = frozenset({AgentState.PLANNED, AgentState.REGISTERING, AgentState.STARTING})
_UNSTARTED = _BEFORE_CONNECTING | {AgentState.CONNECTING, AgentState.IDLE}
#: The agent may be connected; without the bridge it may then take a build of its label.
_MAY_BE_ONLINE = frozenset({AgentState.STARTING, AgentState.CONNECTING, AgentState.IDLE})
_UNREACHED = "the controller did not get the agent's answer over SSH"


class AgentSteps:
    """The steps, over the shared desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._dialling = Dialling(desk)
        self._acts: dict[AgentState, Callable[[AgentTask], Awaitable[None]]] = {
            AgentState.PLANNED: self._plan,
            AgentState.REGISTERING: self._register,
            AgentState.STARTING: self._start,
            AgentState.CONNECTING: self._connect,
            AgentState.IDLE: self._idle,
            AgentState.RUNNING: self._run,
            AgentState.FINISHED: self._finish,
            AgentState.REMOVING: self._remove,
        }

    async def take(self, task: AgentTask) -> None:
        """Take the step of the agent's present state."""
        if task.doomed and task.agent.state is not AgentState.REMOVING:
            if await self._may_go(task):
                task.move(AgentState.REMOVING)
            return
        if task.agent.state in _UNSTARTED and not await self._oriented(task):
            return
        if task.agent.state in _BEFORE_CONNECTING and not await self._still_wanted(task):
            return
        await self._acts[task.agent.state](task)

    async def _oriented(self, task: AgentTask) -> bool:
        """After a restart nothing is decided about a launch before the controller showed what became of its item.

        A failure that is found earlier would be counted against a request that is not known yet, and be lost.
        """
        controller = self._controller(task)
        await task.facts.wait(lambda: controller.seen or task.doomed, task.clock)
        return not task.doomed

    async def _still_wanted(self, task: AgentTask) -> bool:
        """Whether a launch goes on."""
        if task.facts.started and task.agent.state is AgentState.STARTING:
            task.move(AgentState.RUNNING)  # it connected and took its build while nobody looked
            return False
        if task.agent.request is not None and self._desk.book.get(task.agent.request) is None:
            if task.taken_over and task.agent.state is AgentState.STARTING:
                # its agent may have connected and taken the build a moment ago: the observer asks what became of it
                await task.facts.wait(lambda: task.facts.started or task.doomed, task.clock)
                return False
            task.want_gone(Reason.CANCELLED, "its queue item left the queue before the agent was up")
            return False
        if task.misread:
            task.want_gone(None, f"{task.misread}; its build gets a new agent")
            return False
        return True

    def _controller(self, task: AgentTask) -> ControllerHandle:
        return self._desk.controllers[task.agent.controller]

    def _provider(self, task: AgentTask) -> ProviderHandle:
        return self._desk.providers[task.agent.provider]

    async def _plan(self, task: AgentTask) -> None:
        agent = task.agent
        request = self._desk.book.get(agent.request)
        waited_s = (task.clock.now() - request.first_seen).total_seconds() if request else 0.0
        where = f"Template {agent.template} on provider {agent.provider}"
        if agent.request is None:
            task.log.say(f"{where} starts the agent {agent.name} ahead of any build")
        else:
            task.log.say(
                f"{where} serves this build with the agent {agent.name}"
                + (f" (attempt {agent.attempt})" if agent.attempt > 1 else "")
                + f"; it waited {waited_s:.1f} s for its turn"
            )
        task.move(AgentState.REGISTERING)

    async def _register(self, task: AgentTask) -> None:
        await agent_port.check(self._desk, task)
        secret = await self._ensure_node(task)
        measure_queue(self._desk, task)
        task.move(AgentState.STARTING)
        await self._start_with(task, secret)

    async def _start(self, task: AgentTask) -> None:
        # Reached only after a restart in the middle of the start: the secret is not stored, ask for it again.
        await self._start_with(task, await self._ensure_node(task))

    async def _ensure_node(self, task: AgentTask) -> str:
        controller = self._controller(task)
        request = self._desk.book.get(task.agent.request)
        lines = task.log.take()
        try:
            root = self._remote_root(task)
            order = node_order(task.agent, task.template, request.item if request else None, root, lines=lines)
            task.secret = (await controller.port.register(order)).secret
        except BaseException:
            task.log.give_back(lines)
            raise
        return task.secret

    async def _start_with(self, task: AgentTask, secret: str) -> None:
        controller, provider = self._controller(task), self._provider(task)
        order = instance_order(
            task.agent,
            task.template,
            backend=provider.kind,
            agent_url=self._desk.agent_url(task.agent),
            secret=secret,
            agent_jar=await controller.port.agent_jar(),
            secrets=await asyncio.to_thread(secret_files, task.template) if task.template.secrets else (),
        )
        began = task.clock.monotonic()
        told = began
        steps = provider.backend.start(order)
        wanted_gone = asyncio.create_task(task.facts.wait(lambda: task.doomed, task.clock))
        try:
            while True:
                step = asyncio.ensure_future(anext(steps, None))
                await asyncio.wait({step, wanted_gone}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
                    return  # the take-down finds by its mark what the cut-short start may still bring up
                match step.result():
                    case None:
                        break
                    case Checkpoint(key=key, value=value):
                        task.save(replace(task.agent, ids={**task.agent.ids, key: value}))
                    case Progress(text=text):
                        task.log.say(text[:1].upper() + text[1:])
                if task.clock.monotonic() - told > _TELL_EVERY_S:
                    told = task.clock.monotonic()
                    tell(self._desk, task)
        except LaunchError as error:
            if error.reason is Reason.PROVIDER_UNREACHABLE:
                provider.lost(error.message)
            # `start` is not called again: whether to try once more is for the request to say
            raise error.again(retryable=False) from error
        finally:
            wanted_gone.cancel()
        took_s = task.clock.monotonic() - began
        task.log.say(f"Instance started after {took_s:.2f} s; waiting for its agent to connect")
        task.move(AgentState.CONNECTING)
        self._desk.refusals.started(task.agent)
        tell(self._desk, task)

    async def _connect(self, task: AgentTask) -> None:
        facts, controller = task.facts, self._controller(task)
        connect_s = task.template.timeouts.connect_s
        deadline = task.clock.monotonic() + connect_left_s(task, connect_s)
        dialled = self._dialling.dials(task)
        problem, reason = "", Reason.CONNECT_TIMEOUT
        looked = False
        while not (facts.online or facts.started or facts.finished or task.doomed):
            if facts.vanished:
                raise _vanished(task)
            if await self._instance_ended(task):
                return
            left_s = deadline - task.clock.monotonic()
            if left_s <= 0 and controller.up:
                if DIALLED_MARK in task.agent.marks:
                    await self._dialling.last_words(task)
                problem = problem or f"the agent did not connect to {await agent_port.whereto(self._desk, task)}"
                await self._fail_launch(task, reason, f"{problem} within {connect_s:.0f} s")
                return
            if dialled and DIALLED_MARK not in task.agent.marks:
                secret = task.secret or await self._ensure_node(task)
                unmet = await self._dialling.dial(task, secret, left_s)
                problem = unmet.text if unmet else _UNREACHED
                reason = Reason.NO_ADDRESS if unmet and unmet.missing_address else Reason.CONNECT_TIMEOUT
                tell(self._desk, task)
                continue
            if dialled and looked and (gave_up := await self._dialling.gave_up(task)) is not None:
                task.fail(gave_up)
                return
            look_s = min(_LOOK_WHILE_CONNECTING_S, max(left_s, 0.5))
            await facts.wait(lambda: _news(task), task.clock, look_s)
            looked = True
        if task.doomed:
            return
        measure(self._desk, task, "request_to_online_seconds", AgentState.REGISTERING)
        tell_connected(self._desk, task)
        self._desk.connected(task.agent)
        task.move(AgentState.IDLE)

    async def _idle(self, task: AgentTask) -> None:
        facts = task.facts
        offline_since: float | None = None
        untaken = Untaken(self._desk, task)
        while not (facts.started or facts.finished or task.doomed):
            if facts.vanished:
                raise _vanished(task)
            if await self._instance_ended(task):
                return
            if facts.online:
                offline_since = None
            else:
                offline_since = offline_since or task.clock.monotonic()
                connect_s = task.template.timeouts.connect_s
                if task.clock.monotonic() - offline_since > connect_s and self._controller(task).up:
                    await self._fail_launch(
                        task,
                        Reason.AGENT_LOST,
                        f"the agent lost its connection before its build began ({facts.offline_cause or 'no cause'})",
                    )
                    return
            if why := untaken.look():
                task.log.say(f"It is replaced: {why}")
                task.want_gone(None, why)
                return
            left_s = float("inf")
            if task.agent.request is not None:  # one that waits for no build yet is replaced in its own time
                limit = life_left(task, task.template.timeouts)
                if limit.left_s <= 0:
                    out_of_time(task, limit)
                    return
                left_s = limit.left_s
            look_s = min(_LOOK_WHILE_IDLE_S, left_s)
            was_online = facts.online
            await facts.wait(lambda was=was_online: facts.online is not was or _news(task), task.clock, look_s)  # type: ignore[misc]
        if task.doomed:
            return
        given = GIVEN_MARK in task.agent.marks
        measure(self._desk, task, "online_to_started_seconds", GIVEN_MARK if given else AgentState.IDLE)
        if facts.build_url and not task.agent.build_url:
            task.save(replace(task.agent, build_url=facts.build_url))
        task.move(AgentState.RUNNING)

    async def _run(self, task: AgentTask) -> None:
        facts = task.facts
        controller = self._controller(task)
        limits = task.template.timeouts
        if controller.port.info and controller.port.info.mode is BridgeMode.OFF and not facts.finished:
            # Only the bridge closes the node by itself; without it this is what makes it single-use.
            await self._bar(task)
        while not (facts.finished or facts.vanished or task.doomed):
            limit = time_left(task, limits)
            if limit.left_s <= 0:
                out_of_time(task, limit)
                return
            look_s = min(_LOOK_WHILE_RUNNING_S, limit.left_s)
            was_online = facts.online
            await facts.wait(lambda was=was_online: facts.online is not was or _over(task), task.clock, look_s)  # type: ignore[misc]
            if not facts.finished and not task.doomed and await self._lost(task):
                break
        if facts.finished and not (facts.online or task.agent.reason or task.doomed):
            await self._lost(task)  # a freestyle build ends with its connection, before the provider tells
        if not task.doomed:
            task.move(AgentState.FINISHED)

    async def _lost(self, task: AgentTask) -> bool:
        """If the instance died under its build: say why, and let the controller end the build by itself."""
        error = await death(task, self._provider(task).backend, self._dialling)
        if error is None:
            return False
        task.save(replace(task.agent, reason=error.reason, detail=error.message))
        task.log.say(*error_lines(error, what="The agent was lost"))
        tell(self._desk, task)
        await task.facts.wait(lambda: task.facts.finished or task.doomed, task.clock, _LAST_WORD_S)
        return True

    async def _finish(self, task: AgentTask) -> None:
        if not task.agent.held(task.clock.now()):
            await hold_if_failed(self._desk, task)
            if task.doomed:
                return
        if task.agent.held(task.clock.now()):
            await keep_held(task, self._controller(task).port)
            if task.doomed:
                return
        task.move(AgentState.REMOVING)

    async def _remove(self, task: AgentTask) -> None:
        await take_down(task, self._controller(task).port, self._provider(task).backend, self._dialling)
        if AgentState.FINISHED in task.agent.marks:
            # the time for which a person kept it says nothing about us
            held = RELEASED_MARK in task.agent.marks
            measure(self._desk, task, "finished_to_removed_seconds", RELEASED_MARK if held else AgentState.FINISHED)
        task.move(AgentState.REMOVED)

    async def _may_go(self, task: AgentTask) -> bool:
        """Whether an unwanted agent can be taken down; a build may have started on it a moment ago."""
        controller, agent = self._controller(task), task.agent
        info = controller.port.info
        if agent.state not in _MAY_BE_ONLINE or agent.reason is Reason.LIFETIME_EXCEEDED or info is None:
            return True
        if info.mode is not BridgeMode.OFF:  # no build but its own can, and not where that was cancelled
            may_have = task.facts.started or self._desk.book.queued(agent.request)
            if agent.reason or not may_have:
                return True
        await self._bar(task)
        snapshot = await controller.port.snapshot()
        if not any(node.name == task.agent.name and node.busy for node in snapshot.nodes):
            return True
        if info.mode is BridgeMode.OFF:
            log.warning("agent.stolen", agent=agent.name)
        else:
            log.info("agent.kept", agent=agent.name)
        task.facts.started = True
        task.keep()
        task.move(AgentState.RUNNING)
        return False

    async def _bar(self, task: AgentTask) -> None:
        """Close the node; that it is gone or cannot be closed is no reason to end a build that runs on it."""
        try:
            await self._controller(task).port.bar(task.agent.name)
        except ControllerError as error:
            if error.retryable:
                raise
            log.warning("agent.not_barred", agent=task.agent.name, problem=error.message)

    async def _instance_ended(self, task: AgentTask) -> bool:
        status = await ended(task, self._provider(task).backend)
        if status is None:
            return False
        connected = task.agent.state is AgentState.IDLE
        error = await failure_of(task, self._dialling, status, connected=connected)
        task.fail(error)
        return True

    async def _fail_launch(self, task: AgentTask, reason: Reason, message: str) -> None:
        tail = await self._dialling.tail(task)
        task.fail(LaunchError(message, reason=reason, tail=tail))

    def _remote_root(self, task: AgentTask) -> str:
        agent = task.agent
        return self._provider(task).backend.remote_root(agent.owner, agent.name, task.template.remote_fs)


def _news(task: AgentTask) -> bool:
    facts = task.facts
    return (
        facts.started
        or facts.finished
        or facts.vanished
        or facts.ended
        or task.doomed
        or (facts.online and task.agent.state is AgentState.CONNECTING)
    )


def _over(task: AgentTask) -> bool:
    facts = task.facts
    return facts.finished or facts.vanished or facts.ended or task.doomed


def _vanished(task: AgentTask) -> LaunchError:
    return LaunchError(f"the node {task.agent.name} was deleted by somebody else", reason=Reason.AGENT_LOST)
