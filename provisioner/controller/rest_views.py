"""What the JSON of plain REST means: queue items with their label, and nodes with our mark. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from provisioner.model.queue import ItemKind, NodeView

QUEUE_TREE = (
    "items[id,inQueueSince,buildable,buildableStartMilliseconds,stuck,why,"
    "task[name,url,fullName,labelExpression],actions[parameters[name,value]]]"
)
NODES_TREE = (
    "computer[displayName,description,offline,temporarilyOffline,offlineCauseReason,idle,"
    "executors[currentExecutable[url,queueId,description]]]"
)
#: Beside the mark, so that nobody takes our helper nodes for agents.
PLACEHOLDER_KEY = "jenkins-provisioner.placeholder"
#: What the reason begins with that we give when we bar a node; as long as it stands, the node's connection does too.
BAR_REASON = "jenkins-provisioner: it has taken its one build"

_OWNER = re.compile(r"(?:^|\s)jenkins-provisioner\.owner=(\S+)")
_AGENT = re.compile(r"(?:^|\s)jenkins-provisioner\.agent=(\S+)")
_PLACEHOLDER = re.compile(r"(?:^|\s)jenkins-provisioner\.placeholder=(\S+)")
_HOLDER = re.compile(r"(?:^|\s)jenkins-provisioner\.holder=(\S+)")
_LABEL = re.compile(r"(?:^|\s)jenkins-provisioner\.label=(\S+)")

_QUOTED = "[\N{LEFT SINGLE QUOTATION MARK}'](.+)[\N{RIGHT SINGLE QUOTATION MARK}']"
_LABEL_FORMS = (
    re.compile(f"^There are no nodes with the label {_QUOTED}$"),
    re.compile(f"^All nodes of label {_QUOTED} are offline$"),
    # one for each node that looked at the item, joined by semicolons; all name the same label
    re.compile(f"doesn.t have label {_QUOTED.replace('.+', '.+?')}(?:;|$)"),
)
_BUSY = re.compile(f"^Waiting for next available executor on {_QUOTED}$")
_NODE_OFFLINE = re.compile(f"^{_QUOTED} is offline$")
_ANY = "Waiting for next available executor"
_SHUTDOWN = "Jenkins is about to shut down"


class Says(StrEnum):
    """What a `why` tells of an item's label."""

    LABEL = "label"  # it names the label
    ANY = "any"  # the item has none and waits for any node
    NODE = "node"  # it names the only node with the label instead
    NO_NODES = "no_nodes"  # there is a label, and it is not told while the controller has no other node
    SHUTDOWN = "shutdown"  # the controller takes no new work, and tells only that
    NOTHING = "nothing"  # anything else


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """A `why`, read."""

    says: Says
    name: str | None = None  # the label or the node


@dataclass(frozen=True, kw_only=True, slots=True)
class RawItem:
    """A buildable item as REST tells it; the label may be known only together with what was seen before."""

    queue_id: int
    since_ms: int
    buildable_ms: int | None
    task: str
    job: str
    kind: ItemKind
    build_url: str | None
    why_text: str | None
    why: Why
    expression: str | None  # the job's own label expression
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawNode:
    """A node of the controller, whoever's it is."""

    name: str
    owner: str | None  # of the mark
    placeholder: str | None  # which of our helper nodes it is
    label: str | None  # the label expression that it was made for
    holder: str | None  # which provisioner of that owner id made it
    build_description: str | None  # of the build it runs; None where that is not told (Pipelines)
    view: NodeView | None  # for an agent of the asked owner


def mark(owner: str, name: str, label: str | None = None, holder: str = "") -> str:
    """The description of one of our nodes."""
    words = f"jenkins-provisioner.owner={owner} jenkins-provisioner.agent={name}"
    if holder:
        words += f" jenkins-provisioner.holder={holder}"
    # `why` names this node in place of the label while no other node has it, also to the next sidecar
    return words if label is None else f"{words} jenkins-provisioner.label={quote(label, safe='')}"


def placeholder_mark(owner: str, kind: str) -> str:
    """The description of a helper node."""
    return f"jenkins-provisioner.owner={owner} {PLACEHOLDER_KEY}={kind}"


def owner_of(description: str | None) -> str | None:
    """Whose a node is, by its description; None if it is nobody's."""
    found = _OWNER.search(description or "")
    return found[1] if found else None


def marked_for(description: str | None, owner: str, name: str) -> bool:
    """Whether a node's description says that it is this agent of this owner."""
    text = description or ""
    found_owner, found_agent = _OWNER.search(text), _AGENT.search(text)
    return bool(found_owner and found_agent and (found_owner[1], found_agent[1]) == (owner, name))


def read_why(why: str | None, *, stuck: bool, nodes: Collection[str], others: bool) -> Why:
    """Read a queue item's `why`, in English.

    Args:
        why: the text.
        stuck: the item's `stuck`: true at once where the label has no node that is online.
        nodes: the names of all nodes, to tell "on NODE" from "on LABEL".
        others: whether the controller had at least one node that cannot have gone in between.
    """
    text = why or ""
    for form in _LABEL_FORMS:
        if found := form.search(text):
            return Why(says=Says.LABEL, name=found[1])
    if found := _BUSY.match(text):
        return Why(says=Says.NODE if found[1] in nodes else Says.LABEL, name=found[1])
    if found := _NODE_OFFLINE.match(text):
        return Why(says=Says.NODE, name=found[1])
    if text == _ANY:
        # without a node the controller forgets the label here; but an item without one is not stuck
        return Why(says=Says.ANY if others or not stuck else Says.NO_NODES)
    if text.startswith(_SHUTDOWN):
        return Why(says=Says.SHUTDOWN)
    return Why(says=Says.NOTHING)


def relative(url: str) -> str:
    """A job's or build's URL below the controller: the controller may know itself by another address."""
    path = urlsplit(url).path if "://" in url else url
    start = ("/" + path).find("/job/")
    return path[start:] if start >= 0 else path.lstrip("/")


def job_of(task_url: str) -> str:
    """The full name of the job that a task's URL lies in."""
    parts = task_url.strip("/").split("/")
    names = []
    for key, name in zip(parts[::2], parts[1::2], strict=False):
        if key != "job":
            break
        names.append(unquote(name))
    return "/".join(names)


def read_items(answer: Mapping[str, Any], nodes: Collection[str], *, others: bool) -> list[RawItem]:
    """The buildable items of a queue's JSON."""
    return [_item(raw, nodes, others) for raw in answer["items"] if raw.get("buildable")]


def _item(raw: Mapping[str, Any], nodes: Collection[str], others: bool) -> RawItem:  # noqa: FBT001
    task: Mapping[str, Any] = raw.get("task") or {}
    url = relative(task.get("url") or "")
    kind = _kind(task)
    return RawItem(
        queue_id=raw["id"],
        since_ms=raw["inQueueSince"],
        buildable_ms=raw.get("buildableStartMilliseconds"),
        task=url,
        job=job_of(url) or task.get("fullName") or "",  # by the URL the cell of a matrix lies in its matrix job
        kind=kind,
        build_url=url if kind is ItemKind.PIPELINE and url else None,
        why_text=raw.get("why"),
        why=read_why(raw.get("why"), stuck=bool(raw.get("stuck")), nodes=nodes, others=others),
        expression=task.get("labelExpression"),
        parameters=read_parameters(raw),
    )


def _kind(task: Mapping[str, Any]) -> ItemKind:
    if "PlaceholderTask" in task.get("_class", ""):
        return ItemKind.PIPELINE
    # every job whose node makes its build record shows this field, also when it is empty
    return ItemKind.FREESTYLE if "labelExpression" in task else ItemKind.OTHER


def read_parameters(owner: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of an item or a build; sensitive ones come without a value and are left out."""
    found: dict[str, str] = {}
    for action in owner.get("actions") or ():
        for parameter in (action or {}).get("parameters") or ():
            value = parameter.get("value")
            if isinstance(value, bool):
                found[parameter["name"]] = "true" if value else "false"
            elif isinstance(value, str | int | float):
                found[parameter["name"]] = str(value)
    return found


def read_nodes(answer: Mapping[str, Any], owner: str) -> list[RawNode]:
    """The nodes of `/computer`, without the built-in one."""
    return [_node(raw, owner) for raw in answer["computer"] if "MasterComputer" not in raw.get("_class", "")]


def _node(raw: Mapping[str, Any], owner: str) -> RawNode:
    name, text = raw["displayName"], raw.get("description") or ""
    found_owner, found_label, found_place = _OWNER.search(text), _LABEL.search(text), _PLACEHOLDER.search(text)
    running = next((e["currentExecutable"] for e in raw.get("executors") or () if e.get("currentExecutable")), None)
    found_holder = _HOLDER.search(text)
    barred, cause = bool(raw.get("temporarilyOffline")), raw.get("offlineCauseReason") or None
    view = None
    if marked_for(text, owner, name):
        view = NodeView(
            name=name,
            # a barred node counts as offline for Jenkins; once its connection breaks the cause is another
            online=not raw["offline"] or (barred and (cause or "").startswith(BAR_REASON)),
            busy=not raw.get("idle", True),
            queue_id=running.get("queueId") if running else None,
            build_url=relative(running["url"]) if running and running.get("url") else None,
            offline_cause=cause,
            accepting=not barred,
            # of a node that somebody took offline nobody tells whether its agent is connected
            connected=barred or not raw["offline"],
        )
    return RawNode(
        name=name,
        owner=found_owner[1] if found_owner else None,
        placeholder=found_place[1] if found_place else None,
        label=unquote(found_label[1]) if found_label else None,
        holder=found_holder[1] if found_holder else None,
        build_description=(running["description"] or "") if running and "description" in running else None,
        view=view,
    )
