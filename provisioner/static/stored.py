"""Reservations by plain REST: a label of the node that says whose it is, beside the labels that its item asks for.

Jenkins itself chooses which build comes then; what `Seats.exclusive` says no to is the window that docs/cleanup.md
tells of. The label holds all that is needed to undo the reservation, also by somebody who knows nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from provisioner.cleanup.facts import Policy
from provisioner.cleanup.labels import changed_labels, split_labels
from provisioner.cleanup.nodes import rewrite_labels
from provisioner.controller.rest import Rest
from provisioner.static.facts import Seat, StaticNode

#: Begins the label of a node that is reserved.
MARK = "jenkins-provisioner.reserved="
_TREE = (
    "computer[_class,displayName,offline,temporarilyOffline,offlineCauseReason,idle,assignedLabels[name],"
    "executors[currentExecutable[url,queueId]]]"
)


class StoredSeats:
    """See `facts.Seats`. Agent/Configure is enough."""

    exclusive = False

    def __init__(self, http: Rest, *, policy: Policy) -> None:
        self._http = http
        self._policy = policy

    def look(self) -> tuple[StaticNode, ...]:
        """One request."""
        found = self._http.get(f"computer/api/json?tree={_TREE}", op="static")["computer"]
        nodes = (self._node(computer) for computer in found if "MasterComputer" not in computer.get("_class", ""))
        return tuple(node for node in nodes if self._policy.cleanable in node.labels)

    def reserve(self, node: str, seat: Seat, lines: Sequence[str]) -> str:  # noqa: ARG002  (there is no console)
        """Read, compare, write, verify; its own labels are added to nothing that it has already."""
        policy = self._policy
        why = ""

        def change(text: str) -> str | None:
            nonlocal why
            there = split_labels(text)
            old = _seat_in(there)
            if old is not None:
                why = "" if old.agent == seat.agent else "is reserved already"
                return text if not why else None
            if policy.cleanable not in there or policy.clean not in there or policy.dirty in there:
                why = "is not clean"
                return None
            added = tuple(label for label in seat.labels if label not in there)
            return changed_labels(text, add=(*added, _written(seat, added)), remove=())

        rewrite_labels(self._http, node, change)
        return why

    def say(self, node: str, agent: str, lines: Sequence[str]) -> None:
        """Nobody to tell it to."""

    def close(self, node: str, agent: str) -> None:
        """The labels go; the mark stays until the agent is done."""
        self._edit(node, agent, lambda seat: (*seat.labels,))

    def free(self, node: str, agent: str, *, ends_build: bool) -> None:
        """The labels and the mark go."""
        if ends_build:
            self._end_builds(node)
        self._edit(node, agent, lambda seat: (*seat.labels,), mark_too=True)

    def _edit(self, node: str, agent: str, gone: Callable[[Seat], Iterable[str]], *, mark_too: bool = False) -> None:
        def change(text: str) -> str | None:
            there = split_labels(text)
            seat = _seat_in(there)
            if seat is None or seat.agent != agent:
                return None
            marks = [label for label in there if label.startswith(MARK)] if mark_too else []
            return changed_labels(text, add=(), remove=[*gone(seat), *marks])

        rewrite_labels(self._http, node, change)

    def _end_builds(self, node: str) -> None:
        tree = "executors[number,currentExecutable[url]]"
        path = f"computer/{quote(node, safe='')}"
        for executor in self._http.get(f"{path}/api/json?tree={tree}", op="static").get("executors") or ():
            if executor.get("currentExecutable"):
                self._http.call(
                    "POST", f"{path}/executors/{int(executor['number'])}/stop", op="static", expect=(200, 302, 404)
                )

    def _node(self, said: Mapping[str, Any]) -> StaticNode:
        name = str(said["displayName"])
        labels = frozenset(str(label["name"]) for label in said.get("assignedLabels") or ()) - {name}
        runs = next((e["currentExecutable"] for e in said.get("executors") or () if e.get("currentExecutable")), None)
        seat = _seat_in(labels)
        return StaticNode(
            name=name,
            labels=labels,
            online=not said.get("offline"),
            unfit=self._unfit(said, labels, seat),
            seat=seat,
            busy=runs is not None,
            queue_id=runs.get("queueId") if runs else None,
            build_url=runs.get("url") if runs else None,
            offline_cause=str(said.get("offlineCauseReason") or ""),
        )

    def _unfit(self, said: Mapping[str, Any], labels: frozenset[str], seat: Seat | None) -> str:
        if seat is not None:
            return f"is reserved for {seat.agent}"
        if self._policy.clean not in labels or self._policy.dirty in labels:
            return "is not clean"
        if said.get("temporarilyOffline"):
            return "was taken offline"
        if said.get("offline"):
            return "is not connected"
        return "" if said.get("idle", True) else "is busy"


def _written(seat: Seat, labels: Sequence[str]) -> str:
    content = [seat.owner, seat.agent, seat.queue_id, seat.since_ms, list(labels)]
    packed = base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode()
    return MARK + packed.rstrip("=")


def _seat_in(labels: Iterable[str]) -> Seat | None:
    for label in labels:
        if label.startswith(MARK):
            packed = label.removeprefix(MARK)
            try:
                content = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
                owner, agent, queue_id, since_ms, added = content
                return Seat(
                    owner=str(owner),
                    agent=str(agent),
                    queue_id=int(queue_id),
                    since_ms=int(since_ms),
                    labels=tuple(str(label) for label in added),
                )
            except (ValueError, TypeError, binascii.Error):
                return None  # a person changed it; it says nothing any more
    return None
