"""Static nodes over plain REST: seen in one request, changed in one word of their configuration.

Jenkins has no compare-and-set for a node. `PlainHands` reads, compares right before it writes, and reads again; what
is left is the time of one request. `console.ScriptHands` does the same inside the controller, under its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import quote

from provisioner.cleanup.facts import Disk
from provisioner.cleanup.labels import (
    UnreadableNodeError,
    changed_labels,
    label_text,
    split_labels,
    with_label_text,
)
from provisioner.controller.rest import Answer, Rest
from provisioner.model.errors import ControllerError

#: How often a change is tried when somebody else changes the same node.
TRIES = 5
#: A mark that no node ever has.
BARRED = 0
_MONITOR = "hudson.node_monitors.DiskSpaceMonitor"
_TREE = (
    "computer[displayName,offline,temporarilyOffline,offlineCauseReason,assignedLabels[name],"
    "executors[currentExecutable[url]],oneOffExecutors[currentExecutable[url]]{}]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenNode:
    """A node as the controller lists it."""

    name: str
    built_in: bool
    labels: frozenset[str]
    connected: bool
    held: str | None
    builds: tuple[str, ...]  # URLs of what has an executor
    disk: Disk | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelChange:
    """Labels to add and to take out, if `watched` are still as they were when that was decided."""

    add: str
    remove: str
    watched: frozenset[str]
    expected: frozenset[str]  # which of the watched ones the node had
    guarded: bool = False  # from now on any build makes it dirty

    def still_fits(self, text: str) -> bool:
        """Whether a label field is as expected, whatever else is in it."""
        return self.watched & frozenset(split_labels(text)) == self.expected

    def made(self, text: str) -> str:
        """The label field after the change."""
        return changed_labels(text, add=(self.add,), remove=(self.remove,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """Since when each clean node has been idle: what has another time than that was used."""

    cleanable: str  # the labels
    clean: str
    marking: bool  # whether any build makes a clean node dirty
    marks: Mapping[str, int]
    skipped: frozenset[str] = frozenset()


class Hands(Protocol):
    """What is done to a node."""

    def idle_since_ms(self, names: Collection[str], guard: Guard | None) -> Mapping[str, int]:
        """When the last build of each idle node ended, by the controller's clock; what is not known is left out.

        Args:
            names: the nodes.
            guard: where that can be done, nodes that were used are barred by this from now on; None changes nothing.
        """
        ...

    def relabel(self, name: str, change: LabelChange, *, idle_since_ms: int | None = None) -> bool:
        """Change labels; False: the node is no longer as it was, nothing was done.

        Args:
            name: the node.
            change: which labels.
            idle_since_ms: only if nothing has run on it since, where that can be told.
        """
        ...

    def hold(self, name: str, reason: str) -> bool:
        """Take the node offline; False: somebody had done so before."""
        ...

    def release(self, name: str, reason: str) -> bool:
        """Bring it back, if it is offline for just that reason; False: it is not."""
        ...

    def describe(self, job: str, number: int, before: str | None, after: str) -> bool:
        """Change a build's description; False: it was no longer `before`, nothing was done."""
        ...


def job_path(name: str) -> str:
    """`a/b` as the controller's path, `job/a/job/b/`."""
    return "".join(f"job/{quote(part, safe='')}/" for part in name.split("/"))


def list_nodes(http: Rest, *, disk: bool) -> tuple[list[SeenNode], int | None]:
    """Every node, and the controller's time in ms (None where it does not tell)."""
    tree = _TREE.format(",monitorData[*]" if disk else "")
    answer = http.call("GET", f"computer/api/json?tree={tree}", op="cleanup")
    return [_seen(computer) for computer in http.parsed(answer, "computer/")["computer"]], time_ms(answer)


def is_quieting_down(http: Rest) -> bool:
    """Whether the controller is about to shut down, and begins nothing until that is taken back."""
    return bool(http.get("api/json?tree=quietingDown", op="cleanup").get("quietingDown"))


def _seen(computer: Mapping[str, Any]) -> SeenNode:
    name = str(computer["displayName"])
    held = computer.get("temporarilyOffline")
    return SeenNode(
        name=name,
        built_in="MasterComputer" in str(computer.get("_class", "")),
        labels=frozenset(label["name"] for label in computer.get("assignedLabels") or ()) - {name},
        connected=not computer.get("offline"),
        held=str(computer.get("offlineCauseReason") or "") if held else None,
        builds=tuple(running_builds(computer)),
        disk=_disk(computer.get("monitorData")),
    )


def running_builds(computer: Mapping[str, Any]) -> Iterable[str]:
    """The URLs of what has an executor of a node, as the controller lists it."""
    for executor in computer.get("executors") or ():
        build = executor.get("currentExecutable")
        if build:
            yield str(build.get("url") or "an unnamed build")
    for executor in computer.get("oneOffExecutors") or ():
        build = executor.get("currentExecutable")
        # a Pipeline has such an executor somewhere for as long as it lasts, and does nothing there
        if build and "WorkflowRun" not in str(build.get("_class", "")):
            yield str(build.get("url") or "an unnamed build")


def _disk(monitors: Mapping[str, Any] | None) -> Disk | None:
    found = (monitors or {}).get(_MONITOR)
    if not isinstance(found, Mapping) or "size" not in found:
        return None
    return Disk(free_bytes=int(found["size"]), at_ms=int(found.get("timestamp") or 0))


def time_ms(answer: Answer) -> int | None:
    """The controller's own time; None where it does not tell."""
    try:
        return round(parsedate_to_datetime(answer.headers["Date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        return None


def rewrite_labels(http: Rest, name: str, change: Callable[[str], str | None]) -> bool:
    """Change a node's label field by plain REST: read, compare right before the write, verify after it.

    Args:
        http: the controller.
        name: the node.
        change: from the field as it is to the one that is wanted; None: it is no longer to be changed.

    Returns:
        Whether the change stands.
    """
    path = f"computer/{quote(name, safe='')}/config.xml"
    for _ in range(TRIES):
        before = _read(http, path)
        text = _text(before, name)
        wanted = change(text)
        if wanted is None or wanted == text:
            return wanted is not None
        after = with_label_text(before, wanted)
        if _read(http, path) != before:
            continue  # somebody is just changing it; what they wrote is the new beginning
        http.call("POST", path, op="relabel", xml_body=after, expect=(200,))
        was, asked = set(split_labels(text)), set(split_labels(wanted))
        found = set(split_labels(_text(_read(http, path), name)))
        if asked - was <= found and found.isdisjoint(was - asked):
            return True
    raise ControllerError(f"node {name}: its labels were changed by others {TRIES} times in a row", retryable=True)


def _read(http: Rest, path: str) -> bytes:
    return http.call("GET", path, op="relabel").content


class PlainHands:
    """Every change by plain REST: no more than Agent/Configure and Agent/Disconnect is needed."""

    def __init__(self, http: Rest) -> None:
        self._http = http

    def idle_since_ms(self, names: Collection[str], guard: Guard | None) -> Mapping[str, int]:  # noqa: ARG002
        """Nothing: REST tells what runs now, not what ran."""
        return {}

    def relabel(self, name: str, change: LabelChange, *, idle_since_ms: int | None = None) -> bool:  # noqa: ARG002
        """Read, compare, write, verify; what a person changes at the same time is taken over and kept."""

        def made(text: str) -> str | None:
            return change.made(text) if change.still_fits(text) else None

        return rewrite_labels(self._http, name, made)

    def hold(self, name: str, reason: str) -> bool:
        """Set whatever was, after a look: two at once cannot bring it back, as they could by toggling."""
        if self._held(name) is not None:
            return False
        self._change(name, "changeOfflineCause", reason)
        return self._held(name) == reason

    def release(self, name: str, reason: str) -> bool:
        """Toggling is all that REST has; a second one, by another at the same moment, gives it its reason again."""
        if self._held(name) != reason:
            return False
        self._change(name, "toggleOffline", reason)
        return self._held(name) is None

    def describe(self, job: str, number: int, before: str | None, after: str) -> bool:  # noqa: ARG002
        """Whoever writes last is right; the scheduler sees to it that this does no harm."""
        path = f"{job_path(job)}{number}/submitDescription"
        self._http.call("POST", path, op="clean", form={"description": after})
        return True

    def _held(self, name: str) -> str | None:
        tree = "tree=temporarilyOffline,offlineCauseReason"
        found = self._http.get(f"computer/{quote(name, safe='')}/api/json?{tree}", op="cleanup")
        return str(found.get("offlineCauseReason") or "") if found["temporarilyOffline"] else None

    def _change(self, name: str, act: str, reason: str) -> None:
        form = {"offlineMessage": reason}
        self._http.call("POST", f"computer/{quote(name, safe='')}/{act}", op="quarantine", form=form)


def _text(xml: bytes, name: str) -> str:
    try:
        return label_text(xml)
    except UnreadableNodeError as error:
        raise ControllerError(f"node {name}: {error}; save it once on its own page") from error
