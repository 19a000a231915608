"""Reservations inside the controller, by the guard of `cleanup`: a reserved node takes its item and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.cleanup.console import NEEDS_GUARD, run_guarded
from provisioner.cleanup.facts import Policy
from provisioner.controller.rest import Rest
from provisioner.static.facts import Seat, StaticNode

_BEGIN = (
    NEEDS_GUARD
    + """
def seat = ask.name == null ? null : guard.seats[ask.name]
def forgetLabels = { ->
    def trim = Jenkins.getDeclaredMethod('trimLabels')
    trim.accessible = true
    trim.invoke(jenkins)
    jenkins.queue.scheduleMaintenance()
}
"""
)

_LOOK = (
    _BEGIN
    + """
def ward = guard.wards[ask.job]
def seen = []
for (node in jenkins.nodes) {
    def labels = hudson.model.Label.parse(node.labelString)*.name
    if (!(ask.cleanable in labels)) continue
    def computer = node.toComputer()
    def its = guard.seats[node.nodeName]
    def executor = its == null || computer == null ? null : computer.executors.find { guard.seatOf(it) != null }
    def runs = executor?.currentExecutable
    def mark = ward?.marks?.get(node.nodeName)
    seen << [
        name: node.nodeName, labels: labels, seat: its == null ? null : its.findAll { it.key != 'lines' },
        online: computer != null && computer.online, cause: String.valueOf(computer?.offlineCause ?: ''),
        open: computer != null && computer.acceptingTasks && !computer.temporarilyOffline,
        idle: computer != null && computer.idle, busy: executor != null, marked: mark != null,
        used: mark != null && computer != null && computer.idleStartMilliseconds != mark,
        url: runs instanceof hudson.model.Run ? runs.absoluteUrl : null,
    ]
}
return [code: 'done', nodes: seen]
"""
)

_RESERVE = (
    _BEGIN
    + """
def node = jenkins.getNode(ask.name)
if (node == null) return [code: 'is gone']
if (seat != null) return [code: seat.agent == ask.seat.agent ? 'done' : 'is reserved already']
def labels = hudson.model.Label.parse(node.labelString)*.name
if (!(ask.cleanable in labels) || !(ask.clean in labels) || ask.dirty in labels) return [code: 'is not clean']
def computer = node.toComputer()
if (computer == null || !computer.online) return [code: 'is not connected']
if (computer.temporarilyOffline || !computer.acceptingTasks) return [code: 'was taken offline']
if (!computer.idle) return [code: 'is busy']
if (ask.marked) {
    def ward = guard.wards[ask.job]
    def mark = ward?.marks?.get(ask.name)
    if (mark == null) return [code: 'was not looked at yet']
    if (computer.idleStartMilliseconds != mark) return [code: 'was used since its cleaning']
}
def lines = new java.util.concurrent.CopyOnWriteArrayList(ask.lines)
guard.seats.put(ask.name, new java.util.concurrent.ConcurrentHashMap(
    [agent: ask.seat.agent, owner: ask.seat.owner, id: ask.seat.id as Long, since: ask.seat.since as Long,
     labels: ask.seat.labels, lines: lines, taken: false, finished: false]))
forgetLabels()
return [code: 'done']
"""
)

_SAY = _BEGIN + "if (seat?.agent == ask.agent && !seat.taken) seat.lines.addAll(ask.lines)\nreturn [code: 'done']\n"

_FREE = (
    _BEGIN
    + """
if (seat?.agent != ask.agent) return [code: 'done']
if (ask.ends) {
    def its = jenkins.getComputer(ask.name)?.executors?.findAll { guard.seatOf(it) != null }
    its?.each { it.interrupt(hudson.model.Result.ABORTED) }
}
guard.seats.remove(ask.name)
forgetLabels()
return [code: 'done']
"""
)


class ScriptSeats:
    """See `facts.Seats`. Only for an account with Administer."""

    exclusive = True

    def __init__(self, http: Rest, *, job: str, policy: Policy) -> None:
        self._http = http
        self._job = job
        self._policy = policy

    def look(self) -> tuple[StaticNode, ...]:
        """One step that changes nothing."""
        return tuple(self._node(node) for node in self._run(_LOOK, cleanable=self._policy.cleanable)["nodes"])

    def reserve(self, node: str, seat: Seat, lines: Sequence[str]) -> str:
        """Check and reserve under the lock of the queue."""
        policy = self._policy
        found = self._run(
            _RESERVE,
            name=node,
            seat={
                "agent": seat.agent,
                "owner": seat.owner,
                "id": seat.queue_id,
                "since": seat.since_ms,
                "labels": list(seat.labels),
            },
            lines=list(lines),
            marked=policy.after_builds == 1,
            cleanable=policy.cleanable,
            dirty=policy.dirty,
            clean=policy.clean,
        )
        return "" if found["code"] == "done" else str(found["code"])

    def say(self, node: str, agent: str, lines: Sequence[str]) -> None:
        """To the seat, from which the build's own listener takes them."""
        self._run(_SAY, name=node, agent=agent, lines=list(lines))

    def close(self, node: str, agent: str) -> None:
        """The guard has done it when the item began."""

    def free(self, node: str, agent: str, *, ends_build: bool) -> None:
        """One step."""
        self._run(_FREE, name=node, agent=agent, ends=ends_build)

    def _run(self, work: str, **ask: object) -> dict[str, Any]:
        return run_guarded(self._http, work, {"job": self._job, "name": None, **ask})

    def _node(self, said: Mapping[str, Any]) -> StaticNode:
        labels = frozenset(str(label) for label in said["labels"])
        seat = said["seat"]
        return StaticNode(
            name=str(said["name"]),
            labels=labels,
            online=bool(said["online"]),
            unfit=self._unfit(said, labels),
            seat=None
            if seat is None
            else Seat(
                agent=str(seat["agent"]),
                owner=str(seat["owner"]),
                queue_id=int(seat["id"]),
                since_ms=int(seat["since"]),
                labels=tuple(seat["labels"]),
                taken=bool(seat["taken"]),
                finished=bool(seat["finished"]),
            ),
            busy=bool(said["busy"]),
            queue_id=int(seat["id"]) if seat is not None and said["busy"] else None,
            build_url=said["url"],
            offline_cause="" if said["online"] else str(said["cause"]),
        )

    def _unfit(self, said: Mapping[str, Any], labels: frozenset[str]) -> str:
        if said["seat"] is not None:
            return f"is reserved for {said['seat']['agent']}"
        if self._policy.clean not in labels or self._policy.dirty in labels:
            return "is not clean"
        if not said["online"]:
            return "is not connected"
        if not said["open"]:
            return "was taken offline"
        if not said["idle"]:
            return "is busy"
        if self._policy.after_builds == 1 and not said["marked"]:
            return "was not looked at yet"
        return "was used since its cleaning" if said["used"] and self._policy.after_builds == 1 else ""
