"""The controller as plain REST shows it: a poll of two requests, and the acts that need no bridge."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

import structlog

from provisioner.controller.descriptions import Descriptions
from provisioner.controller.labels import Labels
from provisioner.controller.port import (
    BridgeMode,
    ControllerInfo,
    FailOutcome,
    Fate,
    FateOf,
    NodeOrder,
    Registration,
    Snapshot,
)
from provisioner.controller.rest import Rest
from provisioner.controller.rest_dialling import RestDialling
from provisioner.controller.rest_nodes import RestNodes
from provisioner.controller.rest_views import (
    NODES_TREE,
    QUEUE_TREE,
    RawItem,
    RawNode,
    Says,
    read_items,
    read_nodes,
    read_parameters,
    relative,
)
from provisioner.controller.rivals import Rivals
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError
from provisioner.model.queue import NodeView, QueueItem, RequestKey

_log = structlog.get_logger(__name__)

_REMOVED = 256  # names; each is still listed for less than a second
_FATE_TREE = "inQueueSince,cancelled,executable[url,building,builtOn],task[url]"


class RestMode:
    """One controller without the bridge.

    What REST cannot do: write into a console, make a build record for a request that failed, keep a
    second build off a node. The launch log goes into the build's description instead.
    """

    def __init__(
        self,
        http: Rest,
        pool: DaemonPool,
        *,
        owner: str,
        parameters: Sequence[str] = (),
        holder: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._pool = pool
        self._owner = owner
        self._parameters = frozenset(parameters)
        self._monotonic = monotonic
        self._nodes = RestNodes(http, pool, owner, holder)
        self._rivals = Rivals(holder, monotonic)
        self.dialling = RestDialling(http, pool, self._nodes, owner)
        self._labels = Labels()
        self._polling = asyncio.Lock()
        self._quieting_down = False
        self._placeholders: tuple[str, ...] = ()
        self._may_place = True
        self._run_parameters: dict[str, dict[str, str]] = {}  # by build URL
        self._descriptions = Descriptions(http, pool)
        self._started: set[str] = set()  # agents that were seen with a build, in this session of the controller
        self._used: set[str] = set()  # the same, also from before a restart of the controller
        self._built: dict[str, str] = {}  # what they built or build, by agent
        self._session = ""
        # nodes that we have removed: for a moment they are still listed, without the mark that was in their description
        self._removed: deque[str] = deque(maxlen=_REMOVED)
        self._registered: set[str] = set()  # nodes that we have made and not removed
        self._returning: set[str] = set()  # agents let open again for the Pipeline that comes back to them

    def info(self) -> ControllerInfo:
        """Who answered last."""
        return ControllerInfo(
            name=self._http.name,
            version=self._http.version,
            session=self._http.session,
            mode=BridgeMode.OFF,
            user=self._http.user,
            quieting_down=self._quieting_down,
        )

    async def open(self) -> ControllerInfo:
        """First contact.

        Raises:
            ControllerError: also where what answers is no Jenkins.
        """
        answer = await self._pool.run(self._http.get, "api/json?tree=quietingDown", op="open")
        if not self._http.version or not isinstance(answer, dict):
            raise ControllerError(
                f"controller {self._http.name} at {self._http.url}: what answers is not a Jenkins; check the URL",
                code=200,
            )
        self._quieting_down = bool(answer.get("quietingDown"))
        return self.info()

    async def close(self) -> None:
        """Remove the helper nodes, as far as the controller lets us."""
        await self._descriptions.close()
        async with self._polling:
            try:
                await self._nodes.clear(self._placeholders)
            except ControllerError as error:
                _log.warning("placeholder.left", controller=self._http.name, error=error.message)
            self._placeholders = ()

    async def settle(self) -> None:
        """Wait until no description is being written any more."""
        await self._descriptions.settle()

    # -- seeing

    async def snapshot(self) -> Snapshot:
        """Two requests, nodes before the queue; more only while a Pipeline's label is not known yet."""
        async with self._polling:
            raw_nodes, raw_items = await self._poll()
            known, wanted = self._labels.resolve(self._keyed(raw_items), {n.name: n for n in raw_nodes}, self._used)
            if wanted and await self._place(wanted):
                raw_nodes, raw_items = await self._poll()
                known, _ = self._labels.resolve(self._keyed(raw_items), {n.name: n for n in raw_nodes}, self._used)
            self._placeholders = tuple(
                n.name for n in raw_nodes if n.owner == self._owner and n.placeholder is not None
            )
            if self._labels.over(self._keyed(raw_items), self._monotonic()) and self._placeholders:
                await self._nodes.clear(self._placeholders)
                self._placeholders = ()
            await self._see_quieting(raw_items)
            await self._read_runs(raw_items)
            items = [self._item(key, raw, known[key]) for key, raw in self._keyed(raw_items).items() if key in known]
            views = [n.view for n in raw_nodes if n.view]
            self._see(views, {n.name: n.build_description for n in raw_nodes})
            await self._see_ends(views)
            await self._close_returned(views)
            nodes = tuple(
                replace(v, started_once=v.name in self._started, finished=v.name in self._started and not v.busy)
                for v in views
            )
            return Snapshot(info=self.info(), items=tuple(items), nodes=nodes, rival=self._rival())

    async def _poll(self) -> tuple[list[RawNode], list[RawItem]]:
        try:
            nodes = await self._read_nodes()
            if any(n.view and n.view.busy and not n.view.build_url for n in nodes):
                # an executor has taken an item and its build is not made yet; whose it is must be known at once
                nodes = await self._read_nodes()
            # an agent's node may go between the two requests, and with it the label from every `why`
            others = any(n.owner is None or (n.owner == self._owner and n.placeholder) for n in nodes)
            answer = await self._pool.run(self._http.get, f"queue/api/json?tree={QUEUE_TREE}", op="queue")
            # nor may one that was made in between be taken for a label
            names = {n.name for n in nodes}.union(self._registered, self._removed)
            return nodes, read_items(answer, names, others=others)
        except (KeyError, TypeError, AttributeError) as error:
            raise ControllerError(
                f"controller {self._http.name}: its list of nodes or queue items has a form that is not known",
                code=200,
                retryable=True,
            ) from error

    async def _read_nodes(self) -> list[RawNode]:
        answer = await self._pool.run(self._http.get, f"computer/api/json?tree={NODES_TREE}", op="nodes")
        nodes = read_nodes(answer, self._owner)
        self._rivals.look({n.name: n.holder or "" for n in nodes if n.view is not None})
        return nodes

    def _rival(self) -> str:
        if not self._rivals.alive:
            return ""
        return (
            f"controller {self._http.name}: another provisioner with the id {self._owner} is at work here; "
            "stop one of the two, or give each an id of its own"
        )

    async def _place(self, kinds: set[str]) -> bool:
        """Make helper nodes; whether there are new ones."""
        placed = False
        for kind in sorted(kinds) if self._may_place else ():
            try:
                await self._nodes.place(kind)
                placed = True
            except ControllerError as error:
                if error.code == 403:
                    self._may_place = False
                    _log.warning("placeholder.refused", controller=self._http.name, error=error.message)
                elif error.code != 404:  # the node it should be like is gone: look again with the next poll
                    raise
        return placed

    async def _see_quieting(self, items: Sequence[RawItem]) -> None:
        if any(item.why.says is Says.SHUTDOWN for item in items):
            self._quieting_down = True
        elif items:
            self._quieting_down = False
        elif self._quieting_down:  # nothing waits that could tell
            answer = await self._pool.run(self._http.get, "api/json?tree=quietingDown", op="open")
            self._quieting_down = bool(answer.get("quietingDown"))

    async def _read_runs(self, items: Sequence[RawItem]) -> None:
        """Parameters of Pipelines: they are the run's, one request for each run, only if a template asks for them."""
        urls = {i.build_url for i in items if i.build_url} if self._parameters else set()
        self._run_parameters = {u: p for u, p in self._run_parameters.items() if u in urls}
        missing = sorted(urls - set(self._run_parameters))
        found = await asyncio.gather(*(self._parameters_of(u) for u in missing))
        self._run_parameters.update(zip(missing, found, strict=True))

    async def _parameters_of(self, build_url: str) -> dict[str, str]:
        path = f"{build_url}api/json?tree=actions[parameters[name,value]]"
        try:
            return read_parameters(await self._pool.run(self._http.get, path, op="parameters"))
        except ControllerError as error:
            if error.code in (403, 404):
                return {}
            raise

    def _keyed(self, items: Sequence[RawItem]) -> dict[RequestKey, RawItem]:
        return {
            RequestKey(controller=self._http.name, queue_id=i.queue_id, since_ms=i.since_ms, task=i.task): i
            for i in items
        }

    def _item(self, key: RequestKey, raw: RawItem, label: str | None) -> QueueItem:
        parameters = {**self._run_parameters.get(raw.build_url or "", {}), **raw.parameters}
        return QueueItem(
            key=key,
            kind=raw.kind,
            job=raw.job,
            label=label,
            build_url=raw.build_url,
            why=raw.why_text,
            parameters={k: v for k, v in parameters.items() if k in self._parameters},
            buildable_ms=raw.buildable_ms,
        )

    def _see(self, views: Sequence[NodeView], descriptions: Mapping[str, str | None]) -> None:
        """Note what our nodes do; have launch logs shown in builds that have begun."""
        self._nodes.seen({view.name: view.accepting for view in views})
        if self._session != self._http.session:
            # a Pipeline that was suspended comes back to its agent: idle does not mean finished yet
            self._session = self._http.session
            self._started.clear()
        self._started &= {view.name for view in views}
        self._used = (self._used & {view.name for view in views}) | {view.name for view in views if view.busy}
        self._built = {name: url for name, url in self._built.items() if name in self._used}
        self._built |= {view.name: view.build_url for view in views if view.busy and view.build_url}
        for view in views:
            if view.busy and view.build_url and view.name not in self._started:
                self._started.add(view.name)
                self._descriptions.started(view.name, view.build_url, before=descriptions[view.name])

    async def _see_ends(self, views: Sequence[NodeView]) -> None:
        """After a restart of the controller nothing comes back to an agent whose build is over: it ended unseen."""
        for view in views:
            url = self._built.get(view.name)
            if url is None or view.busy or view.name in self._started:
                continue
            try:
                answer = await self._pool.run(self._http.get, f"{url}api/json?tree=building", op="build")
            except ControllerError as error:
                if error.code not in (403, 404):
                    raise
                continue  # deleted, or no longer shown to us; what is done then needs no answer
            if answer.get("building") is False:
                self._started.add(view.name)

    async def _close_returned(self, views: Sequence[NodeView]) -> None:
        """What was let open for its own Pipeline is closed as soon as that is back."""
        self._returning &= {view.name for view in views}
        for view in views:
            if view.name in self._returning and view.busy:
                self._returning.discard(view.name)
                await self.bar(view.name)

    # -- acting

    async def register(self, order: NodeOrder) -> Registration:
        """See `RestNodes.register`."""
        self._descriptions.expect(order.name, order.request.key if order.request else None, order.lines)
        self._registered.add(order.name)
        return await self._nodes.register(order)

    async def adopt(self, order: NodeOrder) -> bool:
        """The node carries all that REST knows; only whether it is there."""
        return await self._nodes.exists(order.name)

    async def remove(self, name: str) -> None:
        """Delete the node; gone already is done."""
        self._removed.append(name)
        self._registered.discard(name)
        await self._nodes.remove(name)
        self._descriptions.forget(name)

    async def bar(self, name: str) -> None:
        """Let the node take no further build. Idempotent."""
        await self._nodes.bar(name, self._descriptions.said(name))

    async def let_return(self, name: str) -> None:
        """Open the node, which was closed when its build began, until that is back. Idempotent."""
        self._returning.add(name)
        await self._nodes.unbar(name)

    def tell(self, name: str | None, lines: Sequence[str]) -> None:
        """Keep lines of the launch log until the agent's build has begun."""
        if name is not None:
            self._descriptions.keep(name, lines)

    async def fail(self, request: QueueItem, reason: str, message: str, lines: Sequence[str]) -> FailOutcome:
        """Take the item out of the queue; for a Pipeline with the reason in the run's description."""
        if (await self.fate(request.key)).fate is not Fate.WAITING:
            return FailOutcome.GONE
        if await self._others(request.label):
            return FailOutcome.SPARED
        path = f"queue/cancelItem?id={request.key.queue_id}"
        # Jenkins answers 500 where the item left the queue a moment ago
        answer = await self._pool.run(self._http.call, "POST", path, op="cancel", expect=(200, 204, 302, 404, 500))
        if answer.status in (404, 500):
            return FailOutcome.GONE
        if request.build_url:
            try:
                told = any(message in line for line in lines)
                last = () if told else (f"{message} ({reason})",)
                await self._descriptions.add(request.build_url, [*lines, *last])
            except ControllerError as error:  # the item is cancelled; asking again would find it gone
                _log.warning("description.failed", controller=self._http.name, error=error.message)
        return FailOutcome.CANCELLED

    async def fate(self, key: RequestKey) -> FateOf:
        """What became of an item; another item under the same number is not it."""
        path = f"queue/item/{key.queue_id}/api/json?tree={_FATE_TREE}"
        try:
            answer = await self._pool.run(self._http.get, path, op="fate")
        except ControllerError as error:
            if error.code == 404:
                return FateOf(fate=Fate.UNKNOWN)
            raise
        task = relative((answer.get("task") or {}).get("url") or "")
        if (answer.get("inQueueSince"), task) != (key.since_ms, key.task):
            return FateOf(fate=Fate.UNKNOWN)
        executable = answer.get("executable")
        if executable:
            url, node = relative(executable.get("url") or "") or None, executable.get("builtOn")
            if url:  # a build may be over before any poll saw it
                self._descriptions.started(node, url, request=key)
            return FateOf(fate=Fate.STARTED, build_url=url, building=executable.get("building"), node=node)
        left = "LeftItem" in answer.get("_class", "")
        if answer.get("cancelled"):
            return FateOf(fate=Fate.CANCELLED)
        # left without a build yet: an executor is about to make it
        return FateOf(fate=Fate.STARTED if left else Fate.WAITING)

    async def outcome(self, build_url: str) -> str | None:
        """The result of a build; None while it has none, or is not there."""
        try:
            answer = await self._pool.run(self._http.get, f"{build_url}api/json?tree=result", op="outcome")
        except ControllerError as error:
            if error.code == 404:
                return None
            raise
        result = answer.get("result")
        return str(result) if result else None

    async def _others(self, label: str | None) -> bool:
        """Whether a node that is not ours, or a cloud, could serve the label."""
        answer = await self._pool.run(self._http.get, f"computer/api/json?tree={NODES_TREE}", op="explain")
        foreign = {n.name for n in read_nodes(answer, self._owner) if n.owner != self._owner} - {*self._removed}
        if label is None:
            return bool(foreign)
        path = f"label/{quote(label, safe='')}/api/json?tree=nodes[nodeName],clouds[name]"
        answer = await self._pool.run(self._http.get, path, op="explain")
        return bool(answer.get("clouds")) or any(n.get("nodeName") in foreign for n in answer.get("nodes") or ())
