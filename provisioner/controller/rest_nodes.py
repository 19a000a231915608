"""Nodes over plain REST: made, barred and removed, each only with our mark on it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn
from urllib.parse import quote, unquote

from provisioner.controller.labels import BARE, placeholder_name
from provisioner.controller.port import Launcher, NodeOrder, Registration
from provisioner.controller.rest import Answer, Rest
from provisioner.controller.rest_views import BAR_REASON, mark, marked_for, placeholder_mark
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError

_SECRET = re.compile(r"<argument>([0-9a-f]{64})</argument>")
_PLAIN_LABEL = re.compile(r"[^\s\"'\\]+")


class RestNodes:
    """The nodes of one owner on one controller."""

    def __init__(self, http: Rest, pool: DaemonPool, owner: str, holder: str = "") -> None:
        self._http = http
        self._pool = pool
        self._owner = owner
        self._holder = holder
        self._ours: set[str] = set()  # names seen or made with our mark
        self._accepting: dict[str, bool] = {}  # by the newest listing, used up by the first bar
        self._turn: dict[str, asyncio.Lock] = {}

    def seen(self, accepting: dict[str, bool]) -> None:
        """The newest listing: our nodes, and whether they take builds."""
        self._ours = set(accepting)
        self._accepting = accepting
        self._turn = {name: lock for name, lock in self._turn.items() if name in accepting or lock.locked()}

    async def register(self, order: NodeOrder) -> Registration:
        """Two requests: create, read the secret. A node of that name with our mark is taken as it is.

        Raises:
            ControllerError: 409 where the name is a stranger's.
        """
        await self.create(order, inbound(web_socket=order.launcher is Launcher.WEBSOCKET))
        return Registration(secret=await self._secret(order.name))

    async def create(self, order: NodeOrder, launcher: Mapping[str, object], *, description: str | None = None) -> None:
        """Make the node; one of that name with our mark is taken as it is.

        Args:
            order: the node.
            launcher: what the form says of its launcher.
            description: the one that it has had; default: the mark and the first lines of its launch log.

        Raises:
            ControllerError: 409 where the name is a stranger's.
        """
        text = mark(self._owner, order.name, order.request.label if order.request else None, self._holder)
        description = description or "\n".join([text, *(f"[provisioner] {line}" for line in order.lines)])
        created = await self._create(order.name, description, order.labels, order.remote_fs, launcher)
        if not created and not await self._is_ours(order.name):
            self._stranger(order.name)
        self._ours.add(order.name)

    async def exists(self, name: str) -> bool:
        """Whether the node exists and is ours."""
        return await self._is_ours(name)

    async def remove(self, name: str) -> None:
        """Delete the node; gone already is done.

        Raises:
            ControllerError: 409 where the node is a stranger's.
        """
        if name not in self._ours:
            description = await self._description(name)
            if description is None:
                return
            if not marked_for(description, self._owner, name):
                self._stranger(name)
        await self._delete(name)
        self._ours.discard(name)

    async def bar(self, name: str, lines: Sequence[str] = ()) -> None:
        """Make the node take no further build; its page shows the reason, and these lines below it."""
        # Jenkins takes what stands before the last " : " of a reason for its own words
        told = [BAR_REASON, *(f"[provisioner] {line.replace(' : ', ': ')}" for line in lines)]
        await self._set_accepting(name, "\n".join(told), wanted=False)

    async def unbar(self, name: str) -> None:
        """Let the node take a build again."""
        await self._set_accepting(name, "", wanted=True)

    async def _set_accepting(self, name: str, reason: str, *, wanted: bool) -> None:
        """Toggling is all that REST has, so the state is read first."""
        async with self._turn.setdefault(name, asyncio.Lock()):
            accepting = self._accepting.pop(name, None)
            if accepting is None:
                path = f"computer/{quote(name)}/api/json?tree=temporarilyOffline"
                accepting = not (await self._pool.run(self._http.get, path, op="bar"))["temporarilyOffline"]
            if accepting is not wanted:
                path = f"computer/{quote(name)}/toggleOffline"
                await self._pool.run(self._http.call, "POST", path, op="bar", form={"offlineMessage": reason})

    async def place(self, kind: str) -> None:
        """Make a helper node of this kind (see `labels.py`); it never gets an agent."""
        labels: list[str] = []
        if kind != BARE:
            like = unquote(kind.removeprefix("like:"))
            path = f"computer/{quote(like)}/api/json?tree=assignedLabels[name]"
            answer = await self._pool.run(self._http.get, path, op="placeholder")
            labels = [x["name"] for x in answer["assignedLabels"] if x["name"] != like]
        name = placeholder_name(self._owner)
        waits = inbound(web_socket=True)
        await self._create(name, placeholder_mark(self._owner, kind), labels, "/nonexistent", waits)

    async def clear(self, placeholders: Sequence[str]) -> None:
        """Remove helper nodes."""
        for name in placeholders:
            await self._delete(name)

    async def _create(
        self, name: str, description: str, labels: Sequence[str], remote_fs: str, launcher: Mapping[str, object]
    ) -> bool:
        """Whether it was made now; False: there is one of that name."""
        form = node_form(name, description, labels, remote_fs, launcher=launcher)
        try:
            await self._pool.run(
                self._http.call, "POST", "computer/doCreateItem", op="register", form=form, expect=(200, 302)
            )
        except ControllerError as error:
            if error.code == 400 and "already exists" in error.message:
                return False
            raise
        return True

    async def _secret(self, name: str) -> str:
        path = f"computer/{quote(name)}/jenkins-agent.jnlp"
        return launch_secret(self._http, name, await self._pool.run(self._http.call, "GET", path, op="secret"))

    async def _description(self, name: str) -> str | None:
        """The node's description; None: there is no such node."""
        path = f"computer/{quote(name)}/api/json?tree=description"
        try:
            answer = await self._pool.run(self._http.get, path, op="node")
        except ControllerError as error:
            if error.code == 404:
                return None
            raise
        return answer.get("description") or ""

    async def _is_ours(self, name: str) -> bool:
        return marked_for(await self._description(name), self._owner, name)

    def _stranger(self, name: str) -> NoReturn:
        raise ControllerError(
            f"controller {self._http.name}: a node named {name} exists and is not ours; it is left alone", code=409
        )

    async def _delete(self, name: str) -> None:
        path = f"computer/{quote(name)}/doDelete"
        await self._pool.run(self._http.call, "POST", path, op="remove", expect=(200, 302, 404))


def node_form(
    name: str,
    description: str,
    labels: Sequence[str],
    remote_fs: str,
    *,
    launcher: Mapping[str, object],
    executors: int = 1,
) -> dict[str, str]:
    """The form of `computer/doCreateItem` for a node that takes only builds that ask for its labels."""
    kind = "hudson.slaves.DumbSlave"
    always = "hudson.slaves.RetentionStrategy$Always"
    node = {
        "name": name,
        "nodeDescription": description,
        "numExecutors": str(executors),
        "remoteFS": remote_fs,
        "labelString": " ".join(_label(x) for x in labels),
        "mode": "EXCLUSIVE",
        "type": kind,
        "retentionStrategy": {"stapler-class": always, "$class": always},
        "nodeProperties": {"stapler-class-bag": "true"},
        "launcher": launcher,
    }
    return {"name": name, "type": kind, "json": json.dumps(node)}


def launch_secret(http: Rest, name: str, launch_file: Answer) -> str:
    """The secret in a node's launch file.

    Raises:
        ControllerError: there is none.
    """
    found = _SECRET.search(launch_file.text)
    if found is None:
        raise ControllerError(
            f"controller {http.name}: the launch file of node {name} holds no secret", code=launch_file.status
        )
    return found[1]


def inbound(*, web_socket: bool) -> dict[str, object]:
    """What the form says of an agent that dials in, and of a node that is not dialled yet."""
    launcher = "hudson.slaves.JNLPLauncher"
    return {"stapler-class": launcher, "$class": launcher, "webSocket": web_socket}


def _label(label: str) -> str:
    """One label as the label field of a node wants it: quoted where Jenkins would split it."""
    if _PLAIN_LABEL.fullmatch(label):
        return label
    return '"' + label.replace("\\", "\\\\").replace('"', '\\"') + '"'
