"""What one controller shows, turned into facts about agents and entries of the request book."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from provisioner.controller.port import (
    BridgeMode,
    BuildFinished,
    BuildStarted,
    Fate,
    FateOf,
    ItemBuildable,
    ItemLeft,
    NodeOffline,
    NodeOnline,
    Observation,
    Snapshot,
    Unreachable,
)
from provisioner.lifecycle.orders import node_order
from provisioner.lifecycle.sweep import RESUME_GRACE_S
from provisioner.model.agent import AgentState
from provisioner.model.errors import ControllerError, Reason
from provisioner.model.queue import ItemKind, NodeView, QueueItem, RequestKey
from provisioner.routing.expression import read

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import ControllerHandle, Desk
    from provisioner.lifecycle.sweep import NodeSweep

log = structlog.get_logger()

#: Passes in a row that must agree before absence is believed: one pass may have been under way already.
_PASSES = 2
#: How long an agent may wait for its taken item to show as a build on it.
_STARTED_GRACE_S = 15.0

_UNSTARTED = (AgentState.STARTING, AgentState.CONNECTING, AgentState.IDLE)
_BEFORE_BUILD = (AgentState.PLANNED, AgentState.REGISTERING, *_UNSTARTED)
_EXPECTED = (AgentState.CONNECTING, AgentState.IDLE, AgentState.RUNNING)


class Observer:
    """The eyes on one controller."""

    def __init__(self, desk: Desk, controller: ControllerHandle, sweep: NodeSweep) -> None:
        self._desk = desk
        self._me = controller
        self._sweep = sweep
        self._asked: set[RequestKey] = set()

    async def run(self) -> None:
        """Watch for ever."""
        async for seen in self._me.port.watch():
            self._desk.tick(f"watch {self._me.name}")
            self.apply(seen)

    def apply(self, seen: Observation) -> None:
        """Take one observation in; never waits."""
        if isinstance(seen, Snapshot) and seen.rival:
            self._refused(seen)
            return
        if not isinstance(seen, Unreachable):
            self._reached()
        match seen:
            case Snapshot():
                self._snapshot(seen)
            case ItemBuildable(item=item):
                self._see(item)
            case ItemLeft():
                self._left(seen)
            case NodeOnline(name=name):
                self._node(name, online=True)
            case NodeOffline(name=name, cause=cause):
                self._node(name, online=False, cause=cause)
            case BuildStarted():
                self._started(seen.name, seen.queue_id, seen.build_url)
            case BuildFinished(name=name, failed=failed, lost=lost):
                if task := self._desk.agents.get(name):
                    task.facts.failed = failed
                    task.facts.started = task.facts.finished = True
                    if lost:  # that it is offline may be told only after it
                        task.facts.online, task.facts.lost = False, True
                    task.facts.touch()
            case Unreachable(message=message):
                self._unreachable(message)

    def _reached(self) -> None:
        self._me.last_contact = self._desk.clock.monotonic()
        if not self._me.up:
            self._me.up, self._me.problem = True, ""
            log.info("controller.up", controller=self._me.name)
            for task in self._desk.agents_of(self._me.name):
                task.facts.hurry = True
                task.facts.touch()
            self._desk.plan_again.set()

    def _unreachable(self, message: str) -> None:
        if self._me.up or self._me.problem != message:
            log.warning("controller.unreachable", controller=self._me.name, problem=message)
        self._me.up, self._me.problem = False, message
        for task in self._desk.agents_of(self._me.name):
            task.facts.cut_off_at = None  # nobody can come back now

    def _refused(self, seen: Snapshot) -> None:
        """Another provisioner of our id was here first: whatever we began is ended, and nothing is begun."""
        self._unreachable(seen.rival)
        self._nodes(seen)
        for task in self._desk.agents_of(self._me.name):
            if not _begun(task):
                task.want_gone(None, seen.rival)

    def _snapshot(self, seen: Snapshot) -> None:
        if self._me.session != seen.info.session:
            self._new_session(seen.info.session)
        if not self._me.seen:
            self._desk.plan_again.set()
        if self._me.quieting_down is not seen.info.quieting_down:
            self._me.quieting_down = seen.info.quieting_down
            self._desk.plan_again.set()
        for item in sorted(seen.items, key=lambda i: (i.buildable_ms or i.key.since_ms, i.key.queue_id)):
            self._see(item)
        self._nodes(seen)
        self._me.unseen = seen.unseen
        if not seen.complete:
            return
        if not self._me.seen:
            self._me.seen = True
            for task in self._desk.agents_of(self._me.name):
                task.facts.touch()
        present = {item.key for item in seen.items}
        expected = {t.agent.request for t in self._desk.agents_of(self._me.name) if t.agent.state in _UNSTARTED}
        for key in expected.union(self._desk.book.known(self._me.name)):
            if key is not None and key not in present:
                self._ask(key)
        self._sweep.look(seen, self._desk.agents)

    def _see(self, item: QueueItem) -> None:
        book, task = self._desk.book, self._desk.by_request.get(item.key)
        before = book.get(item.key)
        if task is not None and not task.doomed and task.agent.state in _BEFORE_BUILD and before is None:
            # it was out of sight, while a controller read its queue again for one, and its agent is there still
            book.expect(item.key, task.agent)
        if before is not None and not self._believed(item.label):
            item = replace(item, label=before.item.label)
        if book.see(item):
            self._desk.plan_again.set()
        if task is not None and (before is None or before.item.label != item.label):
            self._make_way(task, item)

    def _believed(self, label: str | None) -> bool:
        """Whether the label of a known item can be what its job asks for.

        Without the bridge it is read from a sentence, that for a moment may name none, or an agent that has it.
        """
        info = self._me.port.info
        bridged = info is not None and info.mode is not BridgeMode.OFF
        return bridged or (label is not None and label not in self._desk.agents)

    def _make_way(self, task: AgentTask, item: QueueItem) -> None:
        """A job's label was edited while its build waits: an agent that does not have it would wait for ever."""
        agent = task.agent
        answers = item.label is not None and read(item.label)[0].matches({*agent.labels, agent.name})
        if answers or not self._believed(item.label) or task.doomed or _begun(task) or agent.state not in _BEFORE_BUILD:
            return
        asks = f"for the label {item.label}" if item.label else "for no label"
        task.log.say(f"It is removed: its job asks {asks} by now, which it was not made for")
        task.want_gone(None, f"its job asks {asks} by now")

    def _new_session(self, session: str) -> None:
        """Another start of the controller; it may also have come while no sidecar looked."""
        stored = f"session {self._me.name}"
        before = self._me.session or self._desk.store.meta(stored)
        if before and before != session:
            log.info("controller.restarted", controller=self._me.name)
            self._restarted()
        self._desk.store.set_meta(stored, session)
        self._me.session = session
        self._desk.plan_again.set()

    def _restarted(self) -> None:
        """Freestyle builds died with the controller; Pipelines will come back for their agents."""
        for task in self._desk.agents_of(self._me.name):
            task.facts.online, task.facts.cut_off_at = False, None
            task.facts.resume_until = self._desk.clock.monotonic() + RESUME_GRACE_S

    def _nodes(self, seen: Snapshot) -> None:
        views = {view.name: view for view in seen.nodes}
        waiting: dict[str, list[QueueItem]] = {}
        for item in seen.items:
            waiting.setdefault(item.label or "", []).append(item)
        for task in self._desk.agents_of(self._me.name):
            view = views.get(task.agent.name)
            if view is None:
                if seen.complete and task.agent.state in _EXPECTED:
                    task.facts.missing_passes += 1
                    if task.facts.missing_passes >= _PASSES:
                        task.facts.vanished = True
                        task.facts.touch()
                continue
            task.facts.missing_passes = 0
            resumes = any(_comes_back(task, item) for item in waiting.get(view.name, ()))
            if resumes and seen.info.mode is BridgeMode.OFF and not view.busy and not view.accepting:
                self._desk.errand(self._let_return(task), name=f"let return {view.name}")
            self._view(task, view, seen, resumes=resumes)

    def _view(self, task: AgentTask, view: NodeView, seen: Snapshot, *, resumes: bool) -> None:
        facts = task.facts
        before = (facts.online, facts.started, facts.finished)
        if not view.known and task.agent.state is AgentState.RUNNING and facts.resume_until is None:
            # a new bridge cannot tell whether its build ended while nobody looked
            facts.resume_until = self._desk.clock.monotonic() + RESUME_GRACE_S
        if not view.known and task.agent.state is not AgentState.REMOVING:
            self._desk.errand(self._adopt(task), name=f"adopt {view.name}")
        facts.online = view.online
        if view.connected:
            facts.cut_off_at = None
        elif facts.cut_off_at is None:
            facts.cut_off_at = self._desk.clock.monotonic()
        facts.offline_cause = view.offline_cause or ""
        if view.busy or view.started_once:
            self._started(view.name, view.queue_id, view.build_url)
        if view.busy:
            facts.idle_passes, facts.resume_until = 0, None
        elif view.finished:
            facts.finished = True
        elif task.agent.state is AgentState.RUNNING:
            self._idle_while_running(task, view, seen, resumes=resumes)
        if before != (facts.online, facts.started, facts.finished):
            facts.touch()

    def _idle_while_running(self, task: AgentTask, view: NodeView, seen: Snapshot, *, resumes: bool) -> None:
        facts = task.facts
        if facts.resume_until is not None:
            # after a restart of the controller its Pipeline may still come back for it
            over = self._desk.clock.monotonic() > facts.resume_until
            # without the bridge it may be another's build that ran there, of a kind that nobody knows
            sure = task.agent.kind is ItemKind.FREESTYLE and seen.info.mode is not BridgeMode.OFF
            if resumes or not (over or sure):
                return
        elif seen.info.mode is BridgeMode.OFF:
            # Until the node is barred a second build may slip onto it between two looks.
            facts.finished = not view.accepting
            return
        elif view.started_once:
            # The bridge says when a build has finished; but if an earlier sidecar told it, after a restart of the
            # controller, that one had begun, there may be none whose end it could see.
            facts.resume_until = self._desk.clock.monotonic() + RESUME_GRACE_S
            return
        facts.idle_passes += 1
        if facts.idle_passes >= _PASSES:
            facts.finished = True

    async def _adopt(self, task: AgentTask) -> None:
        request = self._desk.book.get(task.agent.request)
        started = task.facts.started or task.agent.state in (AgentState.RUNNING, AgentState.FINISHED)
        backend = self._desk.providers[task.agent.provider].backend
        root = backend.remote_root(task.agent.owner, task.agent.name, task.template.remote_fs)
        order = node_order(task.agent, task.template, request.item if request else None, root, started=started)
        try:
            await self._me.port.adopt(order)
        except ControllerError as error:  # the next look shows that it is still to be done
            log.info("agent.not_adopted", agent=task.agent.name, problem=error.message)

    async def _let_return(self, task: AgentTask) -> None:
        try:
            await self._me.port.let_return(task.agent.name)
        except ControllerError as error:  # the next look shows that it is still to be done
            log.info("agent.not_opened", agent=task.agent.name, problem=error.message)

    def _node(self, name: str, *, online: bool, cause: str = "") -> None:
        if task := self._desk.agents.get(name):
            task.facts.online, task.facts.offline_cause = online, cause
            task.facts.touch()

    def _started(self, name: str, queue_id: int | None, build_url: str | None) -> None:
        task = self._desk.agents.get(name)
        if task is None:
            return
        task.facts.started = True
        task.facts.build_url = task.facts.build_url or build_url
        task.facts.touch()
        taken = self._taken(task, queue_id, build_url)
        if taken == task.agent.request and taken is not None:
            self._desk.book.gone(taken)
        elif taken is not None:
            self._stolen(task, taken)

    def _taken(self, task: AgentTask, queue_id: int | None, build_url: str | None) -> RequestKey | None:
        """Which request an agent's node runs; None if it cannot be told (yet)."""
        own = task.agent.request
        if queue_id is not None:
            if own is not None and own.queue_id == queue_id:
                return own
            other = self._desk.book.find(self._me.name, queue_id)
            return other.item.key if other else None
        if build_url is not None:
            # a Pipeline's executor tells no queue id, but the task of its items is the run
            if own is not None and own.task == build_url:
                return own
            here = (r.item.key for r in self._desk.book if r.item.key.controller == self._me.name)
            return next((key for key in here if key.task == build_url), None)
        info = self._me.port.info
        return own if info is not None and info.mode is not BridgeMode.OFF else None

    def _stolen(self, task: AgentTask, taken: RequestKey) -> None:
        """Without the bridge another build of the same label may take a node: the two agents swap builds."""
        log.warning("agent.took_another_build", agent=task.agent.name, request=str(taken))
        own = self._desk.book.get(task.agent.request)
        twin = self._desk.by_request.get(taken)
        other = self._desk.book.gone(taken)
        self._desk.rekey(task, taken, other.item.kind if other else None)
        if own is not None:
            if twin is not None:
                self._desk.rekey(twin, own.item.key, own.item.kind)
            self._desk.book.handed_over(own, twin.agent.name if twin else None)
            self._desk.plan_again.set()
        elif twin is not None and twin is not task and not _begun(twin):
            twin.want_gone(None, f"its build was taken by {task.agent.name}")

    def _left(self, seen: ItemLeft) -> None:
        request = self._desk.book.find(self._me.name, seen.queue_id)
        key = request.item.key if request else self._desk.book.find_unserved(self._me.name, seen.queue_id)
        if key is None or key.since_ms != seen.since_ms:
            return
        fate = Fate.CANCELLED if seen.cancelled else Fate.STARTED
        self._resolve(key, FateOf(fate=fate, node=seen.node))

    def _ask(self, key: RequestKey) -> None:
        if key not in self._asked:
            self._asked.add(key)
            self._desk.errand(self._ask_now(key), name=f"fate {key}")

    async def _ask_now(self, key: RequestKey) -> None:
        try:
            fate = await self._me.port.fate(key)
        except ControllerError as error:
            log.info("fate.unknown", request=str(key), problem=error.message)
            return
        finally:
            self._asked.discard(key)
        if fate.fate is not Fate.WAITING:
            self._resolve(key, fate)

    def _resolve(self, key: RequestKey, fate: FateOf) -> None:
        if fate.fate is Fate.STARTED and (taker := self._desk.agents.get(fate.node or "")) is not None:
            self._started(taker.agent.name, key.queue_id, fate.build_url)
        self._desk.book.gone(key)
        self._desk.plan_again.set()
        agent = self._desk.by_request.get(key)
        if agent is None or _begun(agent) or agent.doomed:
            return
        if fate.fate is Fate.CANCELLED:
            agent.want_gone(Reason.CANCELLED, "its queue item was cancelled")
        elif fate.node not in (None, agent.agent.name):
            agent.want_gone(None, f"its build was taken by {fate.node or 'the built-in node'}")
        elif fate.node == agent.agent.name:
            agent.facts.started = True  # so short that no look saw it; the next one shows whether it is over
            agent.facts.touch()
        else:
            self._desk.errand(self._expect_start(agent), name=f"expect {agent.agent.name}")

    async def _expect_start(self, task: AgentTask) -> None:
        """The item left the queue; a build shows on its agent soon, or was so short that no poll saw it."""
        facts = task.facts
        resuming_s = (facts.resume_until or 0.0) - self._desk.clock.monotonic()  # after a restart of the controller
        grace_s = max(_STARTED_GRACE_S, resuming_s)
        await facts.wait(lambda: facts.started or task.doomed, self._desk.clock, grace_s)
        back = task.agent.request is not None and self._desk.book.get(task.agent.request) is not None
        if not _begun(task) and not task.doomed and not back:
            task.want_gone(None, "its build ran and ended unseen, or was taken elsewhere")


def _comes_back(task: AgentTask, item: QueueItem) -> bool:
    """Whether an item that names an agent is of the Pipeline that ran on it; anybody may ask for a node by its name."""
    runs = {task.facts.build_url, task.agent.build_url, task.agent.request.task if task.agent.request else None}
    return item.kind is ItemKind.PIPELINE and item.key.task in runs


def _begun(task: AgentTask) -> bool:
    """Whether a build runs on it, or ran, its own or one that slipped in: then it goes when that ends, not before."""
    return task.facts.started or task.agent.state in (AgentState.RUNNING, AgentState.FINISHED)
