"""Looking at containers: their state, figures and output, and everything with an owner's mark."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from provisioner.backends.contract import AGENT_KEY, OWNER_KEY, Found, InstanceState, Listing, Stats, Status
from provisioner.backends.docker.engine import Engine, RefusedError, filters, name
from provisioner.backends.docker.faults import read_error
from provisioner.model.errors import LaunchError

#: The longest wait for a short answer: a reader must see soon that an engine hangs.
READ_S = 10.0

#: How a container ends whose first process was killed.
_KILLED = 137
#: In which span about a container's end the kernel's word on its memory belongs to it.
_BEFORE_END_S, _AFTER_END_S = 10.0, 2.0

_STATES = {
    "created": InstanceState.CREATED,
    "running": InstanceState.RUNNING,
    "paused": InstanceState.RUNNING,
    "restarting": InstanceState.RUNNING,
    "removing": InstanceState.EXITED,
    "exited": InstanceState.EXITED,
    "dead": InstanceState.EXITED,
}


def status(engine: Engine, agent: str, ids: Mapping[str, str]) -> Status:
    """What a container does now."""
    try:
        found = engine.call("GET", f"/containers/{_reference(agent, ids)}/json", timeout_s=READ_S).json()
    except RefusedError as refused:
        if refused.code == 404:
            return Status(state=InstanceState.MISSING)
        raise read_error(refused, f"container {agent}") from refused
    if not isinstance(found, Mapping) or (found["Config"]["Labels"] or {}).get(AGENT_KEY) != agent:
        return Status(state=InstanceState.MISSING)  # a stranger of that name
    state = found["State"]
    known = _STATES.get(state["Status"], InstanceState.EXITED)
    if known is not InstanceState.EXITED:
        return Status(state=known)
    return Status(
        state=known,
        exit_code=int(state["ExitCode"]),
        out_of_memory=lacked_memory(engine, found),
        detail=str(state.get("Error") or ""),
    )


def lacked_memory(engine: Engine, found: Mapping[str, Any]) -> bool:
    """Whether a container that has ended was killed for want of memory.

    Args:
        engine: where it ran.
        found: what the engine says of it.
    """
    return bool(found["State"]["OOMKilled"]) or _killed_for_memory(engine, found)


def _killed_for_memory(engine: Engine, found: Mapping[str, Any]) -> bool:
    """Whether the kernel killed it for want of memory, although the engine's state of it does not say so.

    The kernel's word reaches the engine beside the container's end. Where it comes second the state is never put
    right, and only the engine's events tell. They are asked for what came about the end; the engine itself ends the
    answer, a moment after the container's end by its own clock, so that a later question does not wait.
    """
    state, limits = found["State"], found.get("HostConfig")
    memory = limits.get("Memory") if isinstance(limits, Mapping) else None
    if int(state["ExitCode"]) != _KILLED or not memory:
        return False
    try:
        end = datetime.fromisoformat(str(state["FinishedAt"])).timestamp()
    except (KeyError, ValueError):
        return False
    wanted = {"type": ["container"], "event": ["oom"], "container": [found["Id"]]}
    query = {"since": f"{end - _BEFORE_END_S:.3f}", "until": f"{end + _AFTER_END_S:.3f}", "filters": json.dumps(wanted)}
    try:
        stream = engine.stream("GET", "/events", query=query, silence_s=_AFTER_END_S + 1.0)
        try:
            return any(True for _ in stream)
        finally:
            stream.close()
    except (RefusedError, LaunchError):
        return False  # a proxy before the engine that lets no events through, or a clock that was put back


def stats(engine: Engine, agent: str, ids: Mapping[str, str]) -> Stats:
    """What a container uses now."""
    query = {"stream": "0", "one-shot": "1"}
    try:
        found = engine.call("GET", f"/containers/{_reference(agent, ids)}/stats", query=query, timeout_s=READ_S).json()
    except RefusedError as refused:
        if refused.code == 404:
            return Stats()
        raise read_error(refused, f"figures of {agent}") from refused
    if not isinstance(found, Mapping):
        return Stats()
    memory, pids = found.get("memory_stats") or {}, (found.get("pids_stats") or {}).get("current")
    if pids is None:
        return Stats()  # it does not run
    inactive = (memory.get("stats") or {}).get(
        "total_inactive_file", (memory.get("stats") or {}).get("inactive_file", 0)
    )
    used = memory.get("usage")
    return Stats(
        cpu_s=found["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        memory_bytes=max(0, int(used) - int(inactive)) if used is not None else None,
        pids=int(pids),
    )


def log_tail(engine: Engine, agent: str, ids: Mapping[str, str], lines: int) -> tuple[str, ...]:
    """The last lines of a container's output, both streams in the order in which they came."""
    query = {"stdout": "1", "stderr": "1", "tail": str(max(lines, 1))}
    try:
        content = engine.tail(f"/containers/{_reference(agent, ids)}/logs", query=query, timeout_s=READ_S)
    except RefusedError as refused:
        if refused.code in (404, 409) or "logging driver" in refused.message:  # gone, or going, or it keeps none
            return ()
        raise read_error(refused, f"output of {agent}") from refused
    text = b"".join(_frames(content)).decode(errors="replace")
    return tuple(text.splitlines()[-lines:]) if lines > 0 else ()


def _frames(content: bytes) -> Iterator[bytes]:
    """The output without the engine's frames: stream number, three zeros, length, text."""
    at = 0
    while at + 8 <= len(content):
        if content[at] not in (1, 2) or content[at + 1 : at + 4] != b"\0\0\0":
            at += 1  # the kept end begins within a frame: find the next
            continue
        length = int.from_bytes(content[at + 4 : at + 8], "big")
        yield content[at + 8 : at + 8 + length]
        at += 8 + length


def listing(engine: Engine, owner: str) -> Listing:
    """All containers, volumes and networks with the owner's mark; not complete if any question failed."""
    mark = filters(label=f"{OWNER_KEY}={owner}")
    found: list[Found] = []
    complete = True
    for kind, path, query in (
        ("container", "/containers/json", {"all": "1", **mark}),
        ("volume", "/volumes", mark),
        ("network", "/networks", mark),
    ):
        try:
            answer = engine.call("GET", path, query=query, timeout_s=READ_S).json()
        except (RefusedError, LaunchError):
            complete = False
            continue
        if kind == "volume" and isinstance(answer, Mapping):
            complete = complete and not answer.get("Warnings")  # a volume driver that did not answer
            answer = answer.get("Volumes") or []
        if not isinstance(answer, Sequence):
            complete = False
            continue
        found.extend(_found(kind, one) for one in answer)
    return Listing(found=tuple(found), complete=complete)


def _found(kind: str, one: Mapping[str, object]) -> Found:
    labels = one.get("Labels")
    agent = str(labels.get(AGENT_KEY, "")) if isinstance(labels, Mapping) else ""
    identity = str(one["Name"] if kind == "volume" else one["Id"])
    return Found(kind=kind, id=identity, agent=agent, age_s=age_s(one.get("Created") or one.get("CreatedAt")))


def age_s(made: object) -> float | None:
    """Seconds since a point in time that the engine gave, by our clock."""
    if isinstance(made, int):
        return max(0.0, time.time() - made)
    try:
        return max(0.0, time.time() - datetime.fromisoformat(str(made)).timestamp())
    except ValueError:
        return None


def _reference(agent: str, ids: Mapping[str, str]) -> str:
    return name(ids.get("container", agent))
