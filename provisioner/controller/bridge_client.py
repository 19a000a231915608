"""The sidecar's side of the bridge: docs/bridge-protocol.md over any HTTP client of the controller."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlencode

from provisioner.controller.bridge_answers import (
    BridgeStatus,
    EventBatch,
    Hello,
    Installation,
    as_list,
    as_object,
    flag,
    malformed,
    maybe_text,
    read_events,
    read_hello,
    read_status,
    text,
    texts,
)
from provisioner.controller.bridge_script import read_marker, render_removal, render_script
from provisioner.controller.port import Dial, FailOutcome, NodeOrder, Registration
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError
from provisioner.model.queue import QueueItem

PROTOCOL = 1
_ROOT = "provisioner-bridge/"
_SCRIPT_S = 150.0  # a controller that has just started, with much to do, takes its time to compile a script
_MOST_OPS = 200  # in one request, so that one slow op does not hold up a thousand


class Http(Protocol):
    """What the bridge needs of the controller's HTTP client. Blocking; every error is a `ControllerError`."""

    def get(self, path: str, *, timeout_s: float, op: str) -> Any:
        """The JSON at a path below the controller."""
        ...

    def post(self, path: str, json_body: object, *, timeout_s: float, op: str) -> Any:
        """The JSON that a JSON body is answered with."""
        ...

    def script(self, groovy: str, *, timeout_s: float) -> str:
        """What a script prints in the script console."""
        ...


class BridgeClient:
    """Speaks with the bridge of one controller for one owner.

    Three threads: the long poll, the ops, and everything else, so that none waits for another.

    Args:
        http: the controller's HTTP client; called from three threads at once.
        controller: the controller's name in the configuration.
        user: the account, as told in `ControllerInfo`.
        owner: our owner id.
        parameters: names of the build parameters that templates' `overrides` look at.
        timeout_s: for every call but the long poll.
        holder: which provisioner this is; a second one under the same owner id is refused (code 423).
    """

    def __init__(
        self,
        http: Http,
        *,
        controller: str,
        user: str,
        owner: str,
        parameters: Sequence[str] = (),
        timeout_s: float = 30.0,
        holder: str = "",
    ) -> None:
        self._http = http
        self._controller = controller
        self._user = user
        self._owner = owner
        self._holder = holder
        self._parameters = tuple(parameters)
        self._timeout_s = timeout_s
        self._poll_pool = DaemonPool(1, f"bridge-poll-{controller}")
        self._op_pool = DaemonPool(1, f"bridge-ops-{controller}")
        self._call_pool = DaemonPool(1, f"bridge-{controller}")
        self._pending: list[tuple[dict[str, object], asyncio.Future[Mapping[str, Any]]]] = []
        self._flush: asyncio.Task[None] | None = None
        self._closed = False

    # -- in and out

    async def status(self) -> BridgeStatus | None:
        """What is installed; None where there is no bridge."""
        try:
            answer = await self._call_pool.run(
                partial(self._http.get, _ROOT + "status", timeout_s=self._timeout_s, op="bridge_status")
            )
        except ControllerError as error:
            if error.code == 404:
                return None
            raise
        status = read_status(answer)
        if PROTOCOL not in status.protocol:
            raise ControllerError(
                f"the bridge {status.bridge} in controller {self._controller} speaks protocol"
                f" {', '.join(map(str, status.protocol))} and this sidecar {PROTOCOL};"
                " update the older of the two",
                code=409,
            )
        return status

    async def install(self, *, replace: bool = False) -> Installation:
        """Put the bridge in through the script console.

        A newer one stays, and so does the same; one of the same version with another text stays for as long as
        another provisioner is at work with it.

        Raises:
            ControllerError: code 403 where the account is not an administrator.
        """
        script = render_script(replace=replace, owner=self._owner, holder=self._holder)
        answer = await self._call_pool.run(
            partial(self._http.script, script, timeout_s=max(_SCRIPT_S, self._timeout_s))
        )
        said = read_marker(answer)
        return Installation(done=flag(said, "installed"), used_by=texts(said, "used_by") if "used_by" in said else ())

    async def uninstall(self) -> bool:
        """Take the bridge out; False if there was none."""
        script = render_removal()
        answer = await self._call_pool.run(
            partial(self._http.script, script, timeout_s=max(_SCRIPT_S, self._timeout_s))
        )
        return bool(read_marker(answer).get("removed"))

    async def close(self) -> None:
        """Let the threads go; calls under way are abandoned."""
        self._closed = True
        if self._flush is not None:
            self._flush.cancel()
            await asyncio.gather(self._flush, return_exceptions=True)
        for pool in (self._poll_pool, self._op_pool, self._call_pool):
            pool.shutdown()
        self._refuse(self._pending, ControllerError("the bridge's client was closed", retryable=True))
        self._pending = []

    def _who(self) -> dict[str, object]:
        who: dict[str, object] = {"protocol": PROTOCOL, "owner": self._owner}
        return {**who, "holder": self._holder} if self._holder else who

    # -- what happens

    async def hello(self) -> Hello:
        """The whole truth now, and where the events go on."""
        body = {**self._who(), "parameters": list(self._parameters)}
        answer = await self._call_pool.run(
            partial(self._http.post, _ROOT + "hello", body, timeout_s=self._timeout_s, op="bridge_hello")
        )
        return read_hello(answer, controller=self._controller, user=self._user)

    async def events(self, *, epoch: str, since: int, wait_s: int = 25) -> EventBatch:
        """What happened after `since`; empty after `wait_s` seconds in which nothing did.

        Args:
            epoch: of the last hello.
            since: `seq` of the last answer.
            wait_s: at most 55; below the idle time-outs of the usual proxies.
        """
        asked = {"owner": self._owner, "epoch": epoch, "since": since, "wait": wait_s}
        query = urlencode({**asked, "holder": self._holder} if self._holder else asked)
        answer = await self._poll_pool.run(
            lambda: self._http.get(f"{_ROOT}events?{query}", timeout_s=wait_s + self._timeout_s, op="bridge_events")
        )
        return read_events(answer, controller=self._controller)

    # -- ops

    async def register(self, order: NodeOrder) -> Registration:
        """Create the node, or find it there with our mark.

        Raises:
            ControllerError: code 409 where a stranger has the name.
        """
        return Registration(secret=text(await self._apply(self._order("register", order)), "secret"))

    async def adopt(self, order: NodeOrder) -> bool:
        """Tell the bridge about a node that exists; False if it does not."""
        return flag(await self._apply({**self._order("adopt", order), "started": order.started}), "exists")

    async def give(self, name: str, request: QueueItem) -> None:
        """Dedicate a standby node to an item."""
        await self._apply({"op": "give", "name": name, "request": _request(request)})

    async def log(self, name: str | None, request: QueueItem | None, lines: Sequence[str]) -> None:
        """Add lines to the launch log of a node or of an item."""
        wanted = None if request is None else _request(request)
        await self._apply({"op": "log", "name": name, "request": wanted, "lines": list(lines)})

    async def bar(self, name: str) -> None:
        """Let the node take no further build."""
        await self._apply({"op": "bar", "name": name})

    async def dial(self, name: str, dial: Dial) -> None:
        """Have the controller dial a node: its credentials entry, then its launcher."""
        await self._apply(
            {
                "op": "dial",
                "name": name,
                "host": dial.host,
                "port": dial.port,
                "host_key": dial.host_key,
                "user": dial.user,
                "private_key": dial.private_key,
                "java": dial.java,
                "java_options": " ".join(dial.java_options),
                "prefix": dial.prefix,
                "suffix": dial.suffix,
                "timeout_s": max(1, round(dial.timeout_s)),
                "retries": dial.retries,
            }
        )

    async def remove(self, name: str, lines: Sequence[str] = (), *, credentials: bool = False) -> bool:
        """Delete the node, and with `credentials` its entry; False if the node was gone already."""
        op = {"op": "remove", "name": name, "lines": list(lines), "credentials": credentials}
        return flag(await self._apply(op), "existed")

    async def credentials(self) -> tuple[str, ...]:
        """Names of the agents that have a credentials entry with our mark."""
        return texts(await self._apply({"op": "credentials"}), "names")

    async def remove_credentials(self, name: str) -> None:
        """Delete the credentials entry of an agent; gone already is done."""
        await self._apply({"op": "forget", "name": name})

    async def launch_tail(self, name: str, lines: int) -> tuple[str, ...]:
        """The last lines of what the controller says about its connection to a node."""
        return texts(await self._apply({"op": "launch_log", "name": name, "most": lines}), "lines")

    async def fail(
        self, request: QueueItem, *, reason: str, message: str, lines: Sequence[str], retryable: bool
    ) -> tuple[FailOutcome, str | None]:
        """End the request with the reason in its console; what became of it, and its build's URL if known.

        Args:
            request: the item.
            reason: the slug.
            message: one plain sentence; a Pipeline's `node` step fails with it.
            lines: for the console, before the message.
            retryable: whether it satisfies a Pipeline's `retry(conditions: [agent()])`.
        """
        result = await self._apply(
            {
                "op": "fail",
                "request": _request(request),
                "reason": reason,
                "message": message,
                "retryable": retryable,
                "lines": list(lines),
            }
        )
        try:
            return FailOutcome(text(result, "outcome")), maybe_text(result, "build_url")
        except ValueError:
            raise malformed(f"outcome {result.get('outcome')!r}") from None

    async def explain(self, request: QueueItem) -> bool:
        """Whether a node that is not ours, or a cloud, could serve the item."""
        return flag(await self._apply({"op": "explain", "request": _request(request)}), "others")

    # -- batching

    async def _apply(self, op: dict[str, object]) -> Mapping[str, Any]:
        """One op's result. The first goes at once; those that come while it is under way go together."""
        if self._closed:
            raise ControllerError("the bridge's client was closed", retryable=True)
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending.append((op, future))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._send_all(), name=f"bridge ops {self._controller}")
        return await future

    async def _send_all(self) -> None:
        while self._pending:
            batch, self._pending = self._pending[:_MOST_OPS], self._pending[_MOST_OPS:]
            body = {**self._who(), "ops": [op for op, _ in batch]}
            try:
                answer = await self._op_pool.run(
                    partial(self._http.post, _ROOT + "apply", body, timeout_s=self._timeout_s, op="bridge_apply")
                )
                results = as_list(as_object(answer, "the answer").get("results"), "results")
                if len(results) != len(batch):
                    raise malformed(f"{len(results)} results for {len(batch)} ops")
            except ControllerError as error:
                self._refuse(batch, error)
                continue
            except asyncio.CancelledError:
                self._refuse(batch, ControllerError("the bridge's client was closed", retryable=True))
                raise
            for (op, future), result in zip(batch, results, strict=True):
                if not future.done():
                    self._settle(op, future, result)

    def _settle(self, op: Mapping[str, object], future: asyncio.Future[Mapping[str, Any]], result: object) -> None:
        try:
            data = as_object(result, "a result")
            if not flag(data, "ok"):
                code = data.get("code")
                code = code if isinstance(code, int) else 500
                what = f"{op['op']} {op.get('name') or ''}".strip()
                raise ControllerError(
                    f"the bridge of controller {self._controller} refused {what}: {data.get('error')}",
                    code=code,
                    retryable=code >= 500,
                )
        except ControllerError as error:
            future.set_exception(error)
        else:
            future.set_result(data)

    @staticmethod
    def _refuse(
        batch: Sequence[tuple[dict[str, object], asyncio.Future[Mapping[str, Any]]]], error: ControllerError
    ) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)

    @staticmethod
    def _order(op: str, order: NodeOrder) -> dict[str, object]:
        return {
            "op": op,
            "name": order.name,
            "labels": list(order.labels),
            "remote_fs": order.remote_fs,
            "launcher": order.launcher.value,
            "request": None if order.request is None else _request(order.request),
            "lines": list(order.lines),
        }


def _request(item: QueueItem) -> dict[str, object]:
    return {"id": item.key.queue_id, "since_ms": item.key.since_ms, "task": item.key.task}
