"""The whole controller in memory: what happens when an item, a node or an agent changes."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from standin import dialling
from standin.bridge import LISTENERS, VERSION, Bridge
from standin.jobs import Build, Job, Jobs
from standin.knobs import Knobs
from standin.link import Link, VirtualLink
from standin.nodes import Executor, Node, Nodes, OfflineCause, now_ms
from standin.queue import Item, Phase, Queue
from standin.work import Work

if TYPE_CHECKING:
    from standin.runs import Block

BROKEN = "hudson.slaves.OfflineCause$ChannelTermination"
LQ, RQ = "\N{LEFT SINGLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}"


class World:
    """One controller. Everything here runs on one event loop and never waits."""

    def __init__(self, *, user: str = "admin", password: str = "admin", token: str | None = None) -> None:
        self.version = "2.460"
        self.session = secrets.token_hex(4)
        self.url = "http://127.0.0.1/"
        self.tcp_port = 0
        self.passwords = {user: password}
        self.tokens = {user: token or secrets.token_hex(17)}
        self.administrators = {user}
        self.nodes = Nodes()
        self.queue = Queue(self._buildable)
        self.jobs = Jobs(self)
        self.credentials: dict[str, tuple[str, str]] = {}  # id: (type, XML)
        self.bridge: Bridge | None = None
        self.init_bridge: dict[str, Any] | None = None  # what init.groovy.d puts in at every start
        self.quieting = False
        self.closing = False
        self.starting = False  # 503 to all
        self.history: list[dict[str, Any]] = []
        self.node_history: dict[str, dict[str, Any]] = {}
        self.requests: Counter[str] = Counter()
        self.running = 0
        self.max_running = 0
        self.max_nodes = 0
        self.virtual: dict[str, Any] | None = None  # simulated agents: prefix, build_s, connect_s
        self.knobs = Knobs()
        self.offsets: dict[str, int] = {}  # how much of each durable script's output has been read
        self._waiting_for_link: dict[str, list[asyncio.Future[None]]] = {}

    def end(self) -> None:
        """Stop everything that runs; what is left of this world changes no more."""
        self.closing = True
        if self.bridge:
            self.bridge.stop()
        for build in self.builds():
            if build.task and not build.task.done():
                build.task.cancel()
        for node in self.nodes.by_name.values():
            if node.link:
                node.link.close()
            if node.dialling is not None:
                node.dialling.cancel()
        for item in self.queue.items.values():
            if item.timer:
                item.timer.cancel()

    def successor(self) -> World:
        """A new world with the same address, accounts and init.groovy.d."""
        made = World()
        for name in ("url", "tcp_port", "passwords", "tokens", "administrators", "init_bridge"):
            setattr(made, name, getattr(self, name))
        if made.init_bridge is not None:
            made.install_bridge(made.init_bridge)
        return made

    def log(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    # --- queue ---

    def _buildable(self, item: Item) -> None:
        if item.task.kind == "run":
            if not self.quieting:
                self._start(item, None)
            return
        if self.bridge:
            self.bridge.on_buildable(item)
        self.place(item)

    def place(self, item: Item) -> None:
        """Give the item to an executor if there is one for it."""
        if item.phase is not Phase.BUILDABLE or (self.quieting and item.only_node is None):
            return
        if item.task.kind == "run":
            self._start(item, None)
            return
        if item.only_node is not None:
            node = self.nodes.get(item.only_node)
            candidates = [node] if node else []
        else:
            wanted = self.bridge.node_for(item) if self.bridge else None
            candidates = [wanted] if wanted else []
            candidates += self.nodes.free_for(item.label)
        for node in candidates:
            executor = node.free_executor() or (self._resume_executor(node) if item.only_node else None)
            if executor and (item.only_node or item.label is None or item.label.matches(node.atoms)):
                self._start(item, executor)
                return

    def _resume_executor(self, node: Node) -> Executor | None:
        """A body that goes on after a restart asks nobody whether the node accepts tasks."""
        return next((e for e in node.executors if e.work is None), None) if node.link else None

    def offer(self, node: Node) -> None:
        """Let the node take what waits for it."""
        for item in list(self.queue.by_label.get(node.name, {}).values()):
            if item.only_node == node.name:
                self.place(item)
        while not self.quieting and (executor := node.free_executor()):
            ready = self._next_for(node)
            if ready is None:
                return
            self._start(ready, executor)

    def _next_for(self, node: Node) -> Item | None:
        if node.bound:
            wanted = self.bridge.item_for(node) if self.bridge else None
            if wanted is None or wanted.phase is not Phase.BUILDABLE:
                return None
            return wanted if wanted.label is None or wanted.label.matches(node.atoms) else None
        names = list(node.atoms)
        names += [name for name, label in self.queue.compound.items() if label.matches(node.atoms)]
        heads = [self.queue.head(name) for name in names]
        if node.mode == "NORMAL":
            heads.append(self.queue.head(""))
        ready = [h for h in heads if h is not None and h.only_node is None]
        return min(ready, key=lambda i: i.order) if ready else None

    def _start(self, item: Item, executor: Executor | None) -> None:
        node = executor.node if executor else None
        self.queue.leave(item, node)
        if self.bridge and item.task.kind != "run":
            self.bridge.on_left(item)
        item.executable = item.task.start(item, executor)
        if node:
            self.nodes.refresh_free(node)

    def cancel(self, item: Item) -> None:
        """Take an item out of the queue as cancelled."""
        was_buildable = item.phase is Phase.BUILDABLE
        self.queue.leave(item, None, cancelled=True)
        if self.bridge and was_buildable:
            self.bridge.on_left(item)

    def quiet(self, on: bool) -> None:
        if on == self.quieting:
            return
        self.quieting = on
        if self.bridge:
            self.bridge.on_quiet(on)
        if not on:
            for item in list(self.queue.buildable()):
                self.place(item)

    def why(self, item: Item) -> str | None:
        """Why an item waits, in Jenkins' words."""
        if item.phase is Phase.WAITING:
            seconds = max(0.0, (item.due_ms - now_ms()) / 1000)
            return f"In the quiet period. Expires in {seconds:.1f} sec"
        if item.phase is Phase.BLOCKED:
            return item.task.blocked_by()
        if item.phase is Phase.LEFT:
            return None
        if self.quieting:
            return "Jenkins is about to shut down"
        label = item.label
        if label is None or not self.nodes.by_name:
            return "Waiting for next available executor"  # with no node at all Jenkins does not name the label
        nodes = self.nodes.matching(label)
        if not any(n.online for n in nodes):
            if not nodes:
                return f"There are no nodes with the label {LQ}{label.shown}{RQ}"
            if len(nodes) == 1:
                return f"{LQ}{nodes[0].name}{RQ} is offline"
            return f"All nodes of label {LQ}{label.shown}{RQ} are offline"
        where = nodes[0].name if len(nodes) == 1 else label.shown
        return f"Waiting for next available executor on {LQ}{where}{RQ}"

    def stuck(self, item: Item) -> bool:
        if item.phase is not Phase.BUILDABLE or item.label is None:
            return False
        return not any(n.online for n in self.nodes.matching(item.label))

    # --- work ---

    def work_started(self, work: Work) -> None:
        assert work.executor is not None
        work.executor.work = work
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        work.record = {
            "kind": work.kind,
            "build": work.build.url,
            "job": work.build.job.name,
            "queue_id": work.item.id,
            "node": work.executor.node.name,
            "since_ms": work.item.since_ms,
            "buildable_ms": work.item.buildable_ms,
            "started_ms": now_ms(),
            "finished_ms": None,
            "failed": None,
        }
        self.history.append(work.record)
        if self.bridge:
            self.bridge.on_started(work)

    def work_finished(self, work: Work) -> None:
        self.running -= 1
        work.record.update(finished_ms=now_ms(), failed=work.failed)
        node = self.nodes.get(work.record["node"])
        if work.executor is not None and work.executor.work is work:
            work.executor.work = None
        if self.bridge:
            self.bridge.on_finished(work)
        if node is not None:
            self.nodes.refresh_free(node)
            self.offer(node)

    # --- nodes ---

    def add_node(self, node: Node) -> None:
        self.nodes.add(node)
        self.max_nodes = max(self.max_nodes, len(self.nodes))
        self.node_history[node.name] = {"created_ms": now_ms(), "online_ms": None, "gone_ms": None}
        if node.dial is not None:
            dialling.start(self, node)
        if self.virtual is not None:
            self._connect_virtual(node)

    def delete_node(self, node: Node) -> None:
        link, node.link = node.link, None
        self.nodes.drop(node)
        if node.dialling is not None:
            node.dialling.cancel()
        self.node_history[node.name]["gone_ms"] = now_ms()
        if self.bridge:
            self.bridge.on_gone(node)
        if link:
            link.close()
        self._wake(node.name)

    def connect(self, node: Node, link: Link, how: str, peer: str) -> None:
        """An agent is there and ready."""
        node.link = link
        node.cause = None
        if node.dial is None:
            node.say(f"Inbound agent connected from {peer}")
        node.say("Remoting version: 3248.v65ecb_254c298")
        node.say(f"Launcher: {node.launcher.rpartition('.')[2]}")
        node.say(f"Communication Protocol: {how}")
        node.say("This is a Unix agent")
        node.say("Agent successfully connected and online")
        self.node_history[node.name]["online_ms"] = now_ms()
        self.nodes.refresh(node)
        if self.bridge:
            self.bridge.on_online(node)
        self._wake(node.name)
        self.offer(node)

    def disconnect(self, node: Node, link: Link, cause: OfflineCause | None = None) -> None:
        if node.link is not link:
            return
        node.link = None
        node.cause = cause or OfflineCause(BROKEN, "Connection was broken")
        node.say("Connection terminated")
        self.nodes.refresh(node)
        if self.bridge and not node.deleted:
            self.bridge.on_offline(node, node.cause.reason)

    def hold(self, node: Node, cause: OfflineCause | None) -> None:
        """Take a node temporarily offline, or back."""
        node.held = cause
        self.nodes.refresh(node)
        if cause is None:
            self.offer(node)

    def changed(self, node: Node) -> None:
        """Labels, executors or bonds of a node are other than before."""
        self.nodes.refresh(node)
        self.offer(node)

    async def link_for(self, block: Block) -> Link | None:
        """The connection of a body's node, however long it takes; None once node or body is gone."""
        name = block.node_name
        while block.failure is None:
            node = self.nodes.get(name)
            if node and node.link:
                return node.link
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting_for_link.setdefault(name, []).append(woken)
            try:
                async with asyncio.timeout(None if node else self.knobs.pipeline_removed_s):
                    await woken
            except TimeoutError:
                break
        return None

    def _wake(self, name: str) -> None:
        for woken in self._waiting_for_link.pop(name, []):
            if not woken.done():
                woken.set_result(None)

    def _connect_virtual(self, node: Node) -> None:
        assert self.virtual is not None
        if not node.name.startswith(self.virtual.get("prefix", "")):
            return
        link = VirtualLink(float(self.virtual.get("build_s", 0.0)))

        def arrive() -> None:
            if not node.deleted and node.link is None:
                self.connect(node, link, "WebSocket", "127.0.0.1")

        asyncio.get_running_loop().call_later(float(self.virtual.get("connect_s", 0.0)), arrive)

    # --- builds ---

    def stop(self, build: Build, user: str) -> None:
        if build.building and build.task:
            build.stopped_by = user
            build.task.cancel()

    def builds(self) -> list[Build]:
        return [b for job in self.jobs.by_name.values() for b in job.builds.values()]

    def queue_build(self, job: Job, params: dict[str, str], user: str, quiet_s: float | None) -> Item:
        cause = {"shortDescription": f"Started by user {user}", "userId": user, "userName": user}
        values = {**job.defaults, **{k: v for k, v in params.items() if k in job.defaults}}
        return self.queue.schedule(job, values, [cause], job.quiet_s if quiet_s is None else quiet_s)

    def reconnect_virtual(self) -> None:
        if self.virtual is not None:
            for node in self.nodes.by_name.values():
                if node.link is None:
                    self._connect_virtual(node)

    def install_bridge(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Put the bridge's twin in, replace it or take it out; the answer is the installer's."""
        before = self.bridge
        if parameters.get("verb") == "remove":
            self.remove_bridge()
            return {"removed": len(LISTENERS) + 1 if before else 0}
        owner, holder = str(parameters.get("owner") or ""), str(parameters.get("holder") or "")
        if before is not None and not parameters.get("replace"):
            if before.content == parameters.get("content"):
                return {"installed": False, "found": VERSION}
            if users := before.others(owner, holder):
                return {"installed": False, "found": VERSION, "used_by": users}
        self.bridge = Bridge(self, parameters, before)
        if before is not None:
            before.stop()
        if owner and holder and owner not in self.bridge.others(owner, holder):
            self.bridge.hold(owner, holder)
        found = VERSION if before else None
        return {"installed": True, "found": found, "bridge": VERSION, "epoch": self.bridge.epoch}

    def remove_bridge(self) -> None:
        """Without it no node has labels beyond its own name, and none is bound to an item."""
        if self.bridge is None:
            return
        self.bridge.stop()
        self.bridge = None
        for node in self.nodes.by_name.values():
            node.labels_at_run_time = frozenset()
            node.bound = False
            self.nodes.refresh(node)

    def interrupt_bodies(self, node: Node) -> None:
        """End the Pipeline bodies on a node at once; Jenkins itself would wait for it to come back."""
        for executor in node.executors:
            if executor.work is not None and executor.work.kind == "pipeline":
                executor.work.item.task.fail("Agent was removed")
