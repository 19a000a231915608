"""Nodes, their executors and connections, with indexes so that nothing is searched in full."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from standin.labels import UNSAFE, Label

if TYPE_CHECKING:
    from standin.link import Link

_SECRET_KEY = b"a stand-in has no secrets to keep"
BUILT_IN = "built-in"
SSH_LAUNCHER = "hudson.plugins.sshslaves.SSHLauncher"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class BadNode(ValueError):  # noqa: N818
    """A node that the controller does not accept; the message goes into X-Error."""


@dataclass(frozen=True, slots=True)
class OfflineCause:
    """Why a node is offline."""

    cls: str
    reason: str
    description: str | None = None
    at_ms: int = field(default_factory=now_ms)


@dataclass(frozen=True, slots=True)
class Dial:
    """Whom an SSH launcher dials; `entry` is the id of its credentials."""

    host: str
    port: int
    entry: str
    host_key: str
    java: str = "java"
    options: str = ""
    prefix: str = ""
    suffix: str = ""
    timeout_s: int = 60
    retries: int = 10


@dataclass(eq=False, slots=True)
class Executor:
    """One slot of a node; `work` is the build or the Pipeline block on it."""

    node: Node
    number: int
    work: Any = None  # Work of work.py


@dataclass(eq=False, slots=True)
class Node:
    """One node; a one-shot agent's and a static one are the same thing here."""

    name: str
    description: str | None = None
    remote_fs: str = ""
    mode: str = "NORMAL"
    label_text: str = ""
    websocket: bool = False
    launcher: str = "hudson.slaves.JNLPLauncher"
    retention: str = "hudson.slaves.RetentionStrategy$Always"
    labels_at_run_time: frozenset[str] = frozenset()  # a label finder's, never stored
    bound: bool = False  # takes only what the bridge gave it
    accepting: bool = True
    link: Link | None = None
    held: OfflineCause | None = None  # temporarily offline
    cause: OfflineCause | None = None
    executors: list[Executor] = field(default_factory=list)
    log: bytearray = field(default_factory=bytearray)
    created_ms: int = field(default_factory=now_ms)
    deleted: bool = False
    dial: Dial | None = None
    dialling: asyncio.Task[None] | None = None

    @property
    def atoms(self) -> frozenset[str]:
        return frozenset(self.label_text.split()) | self.labels_at_run_time | {self.name}

    @property
    def connected(self) -> bool:
        return self.link is not None or self.name == BUILT_IN

    @property
    def online(self) -> bool:
        return self.connected and self.held is None

    @property
    def idle(self) -> bool:
        return all(e.work is None for e in self.executors)

    @property
    def offline_cause(self) -> OfflineCause | None:
        if not self.connected and self.cause is not None:
            return self.cause  # in front of the one for which it is held, which the node keeps
        return self.held

    def free_executor(self) -> Executor | None:
        """An executor that may take work now."""
        if not self.online or not self.accepting or self.deleted:
            return None
        return next((e for e in self.executors if e.work is None), None)

    def resize(self, executors: int) -> None:
        self.executors = [e for e in self.executors if e.number < executors or e.work is not None]
        have = {e.number for e in self.executors}
        self.executors += [Executor(self, i) for i in range(executors) if i not in have]

    def say(self, line: str) -> None:
        self.log += line.encode() + b"\n"


def check_name(name: str) -> None:
    """Raises BadNode as Jenkins' `checkGoodName` does."""
    if not name.strip():
        raise BadNode("Query parameter 'name' is required")
    if name in (".", ".."):
        raise BadNode(f"'{name}' is not an allowed name")
    for c in name:
        if ord(c) < 32:
            raise BadNode("No control code is allowed: " + name)
        if c in UNSAFE:
            raise BadNode(f"\N{LEFT SINGLE QUOTATION MARK}{c}\N{RIGHT SINGLE QUOTATION MARK} is an unsafe character")


def secret_of(name: str) -> str:
    """Depends on the name alone, as in Jenkins."""
    return hmac.new(_SECRET_KEY, name.encode(), hashlib.sha256).hexdigest()


def from_form(name: str, form: Mapping[str, Any]) -> Node:
    """A node from the JSON of `doCreateItem`. Raises KeyError, TypeError or ValueError on a wrong one."""
    launcher = form.get("launcher") or {}
    node = Node(
        name=name,
        description=form.get("nodeDescription") or None,
        remote_fs=str(form["remoteFS"]),
        mode=form.get("mode") or "NORMAL",
        label_text=form.get("labelString") or "",
        websocket=bool(launcher.get("webSocket", False)),
        launcher=launcher.get("stapler-class") or launcher.get("$class") or "hudson.slaves.JNLPLauncher",
    )
    node.resize(int(form.get("numExecutors") or 1))
    if node.launcher == SSH_LAUNCHER:
        node.dial = Dial(
            host=str(launcher["host"]),
            port=int(launcher["port"]),
            entry=str(launcher["credentialsId"]),
            host_key=str(launcher["sshHostKeyVerificationStrategy"]["key"]),
            java=launcher.get("javaPath") or "java",
            options=launcher.get("jvmOptions") or "",
            prefix=launcher.get("prefixStartSlaveCmd") or "",
            suffix=launcher.get("suffixStartSlaveCmd") or "",
            timeout_s=int(launcher.get("launchTimeoutSeconds") or 60),
            retries=int(launcher.get("maxNumRetries") or 10),
        )
    return node


def to_xml(node: Node) -> str:
    flag = "true" if node.websocket else "false"
    description = f"<description>{escape(node.description)}</description>" if node.description else "<description/>"
    held = (
        f'  <temporaryOfflineCause class="{node.held.cls}">\n    <description>\n      <args>\n'
        f"        <string> : {escape(node.held.reason)}</string>\n      </args>\n    </description>\n"
        "  </temporaryOfflineCause>\n"
        if node.held
        else ""
    )
    return (
        '<?xml version="1.1" encoding="UTF-8"?>\n'
        f"<slave>\n{held}  <name>{escape(node.name)}</name>\n  {description}\n"
        f"  <remoteFS>{escape(node.remote_fs)}</remoteFS>\n  <numExecutors>{len(node.executors)}</numExecutors>\n"
        f'  <mode>{node.mode}</mode>\n  <retentionStrategy class="{node.retention}"/>\n'
        f'  <launcher class="{node.launcher}">\n    <workDirSettings>\n      <disabled>false</disabled>\n'
        "      <internalDir>remoting</internalDir>\n"
        "      <failIfWorkDirIsMissing>false</failIfWorkDirIsMissing>\n    </workDirSettings>\n"
        f"    <webSocket>{flag}</webSocket>\n  </launcher>\n"
        f"  <label>{escape(node.label_text)}</label>\n  <nodeProperties/>\n</slave>"
    )


def update_from_xml(node: Node, body: bytes) -> None:
    """Raises ValueError on what Jenkins cannot read."""
    try:
        # ElementTree knows XML 1.0 only; Jenkins writes 1.1
        root = ET.fromstring(body.replace(b"version='1.1'", b"").replace(b'version="1.1"', b'version="1.0"'))
    except ET.ParseError as error:
        raise ValueError(f"the node's config.xml does not parse: {error}") from error
    if root.tag != "slave":
        raise ValueError(f"<{root.tag}> is no node")
    node.description = root.findtext("description") or None
    node.remote_fs = root.findtext("remoteFS") or ""
    node.mode = root.findtext("mode") or "NORMAL"
    node.label_text = root.findtext("label") or ""
    launcher = root.find("launcher")
    if launcher is not None:
        node.launcher = launcher.get("class", node.launcher)
        node.websocket = launcher.findtext("webSocket") == "true"
    node.resize(int(root.findtext("numExecutors") or 1))


class Nodes:
    """Every node, by name, by label and by whether it could take work."""

    def __init__(self) -> None:
        self.by_name: dict[str, Node] = {}
        self.by_atom: dict[str, dict[str, Node]] = {}
        self.free: dict[str, Node] = {}  # could take any matching item now; never a bound node
        self.free_by_atom: dict[str, dict[str, Node]] = {}
        self.built_in = Node(BUILT_IN, "the Jenkins controller's built-in node")
        self.version = 0  # changes whenever a label, a node or a connection does
        self._indexed: dict[str, frozenset[str]] = {}
        self._matches: dict[str, list[Node]] = {}
        self._matches_version = -1

    def __len__(self) -> int:
        return len(self.by_name)

    def get(self, name: str) -> Node | None:
        return self.by_name.get(name)

    def add(self, node: Node) -> None:
        self.by_name[node.name] = node
        self.refresh(node)

    def drop(self, node: Node) -> None:
        node.deleted = True
        self.by_name.pop(node.name, None)
        self.refresh(node)

    def refresh(self, node: Node) -> None:
        """Bring the indexes up to date after any change of this node."""
        self.version += 1
        atoms = frozenset() if node.deleted else node.atoms
        before = self._indexed.get(node.name, frozenset())
        if atoms != before:
            _unlist(self.by_atom, before - atoms, node.name)
            for atom in atoms:
                self.by_atom.setdefault(atom, {})[node.name] = node
            if self.free.pop(node.name, None):
                _unlist(self.free_by_atom, before, node.name)
            self._indexed[node.name] = atoms
            if node.deleted:
                del self._indexed[node.name]
        self.refresh_free(node)

    def refresh_free(self, node: Node) -> None:
        """Only whether it could take work has changed."""
        takes = not node.bound and node.free_executor() is not None
        if takes == (node.name in self.free):
            return
        if takes:
            self.free[node.name] = node
            for atom in self._indexed[node.name]:
                self.free_by_atom.setdefault(atom, {})[node.name] = node
        else:
            del self.free[node.name]
            _unlist(self.free_by_atom, self._indexed.get(node.name, frozenset()), node.name)

    def free_for(self, label: Label | None) -> Iterable[Node]:
        """Nodes that could take an item of this label now."""
        if label is None:
            return [n for n in self.free.values() if n.mode == "NORMAL"]
        if label.atom is not None:
            return list(self.free_by_atom.get(label.atom, {}).values())
        return [n for n in self.free.values() if label.matches(n.atoms)]

    def matching(self, label: Label | None) -> list[Node]:
        """Every node of a label, online or not, the built-in one too; remembered until something changes."""
        if self._matches_version != self.version:
            self._matches.clear()
            self._matches_version = self.version
        key = "" if label is None else label.name
        found = self._matches.get(key)
        if found is None:
            if label is None:
                found = [n for n in self.by_name.values() if n.mode == "NORMAL"]
            elif label.atom is not None:
                found = list(self.by_atom.get(label.atom, {}).values())
            else:
                found = [n for n in self.by_name.values() if label.matches(n.atoms)]
            if label is None or label.matches(self.built_in.atoms):
                found.append(self.built_in)
            self._matches[key] = found
        return found


def _unlist(index: dict[str, dict[str, Node]], atoms: Iterable[str], name: str) -> None:
    for atom in atoms:
        names = index.get(atom)
        if names is not None:
            names.pop(name, None)
            if not names:
                del index[atom]
