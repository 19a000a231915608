"""What the kernel tells about processes: who is alive, of which session, with whose mark.

Linux tells all of it under /proc. Elsewhere only life and session are known, so a stray that left
its session is not found there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: In the environment of every process of an agent; not secrets. They outlive a lost folder.
OWNER_VARIABLE = "JENKINS_PROVISIONER_OWNER"
AGENT_VARIABLE = "JENKINS_PROVISIONER_AGENT"

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessId:
    """Names one process for as long as the machine runs: process numbers come again, start times do not."""

    pid: int
    start_ticks: int  # since boot; 0 where the system does not tell

    def __str__(self) -> str:
        return f"{self.pid}/{self.start_ticks}"

    @classmethod
    def parse(cls, text: str) -> ProcessId | None:
        """The reverse of `str`; None if the text is something else."""
        pid, _, ticks = text.partition("/")
        return cls(pid=int(pid), start_ticks=int(ticks)) if pid.isdigit() and ticks.isdigit() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One process as it was a moment ago."""

    id: ProcessId
    session: int
    zombie: bool
    cpu_s: float
    memory_bytes: int


def readable() -> bool:
    """Whether this system has a /proc."""
    return (_PROC / "self" / "stat").exists()


def look(pid: int) -> Process | None:
    """One process; None if there is none of that number."""
    if not readable():
        try:
            return Process(
                id=ProcessId(pid=pid, start_ticks=0), session=os.getsid(pid), zombie=False, cpu_s=0, memory_bytes=0
            )
        except OSError:
            return None
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text[text.rfind(")") + 2 :].split()  # the program's name may hold spaces and brackets
    return Process(
        id=ProcessId(pid=pid, start_ticks=int(fields[19])),
        session=int(fields[3]),
        zombie=fields[0] in ("Z", "X"),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        memory_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def alive(process: ProcessId) -> bool:
    """Whether exactly this process lives; a zombie does not."""
    seen = look(process.pid)
    return seen is not None and not seen.zombie and seen.id == process


def everyone() -> Iterator[Process]:
    """Every living process of the machine; nothing where there is no /proc."""
    if not readable():
        return
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (seen := look(int(entry.name))) is not None and not seen.zombie:
            yield seen


def mark(pid: int) -> tuple[str, str] | None:
    """Owner and agent that a process was started with; None for a stranger or another user's process."""
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    values: dict[str, str] = {}
    for pair in environment.split(b"\0"):
        if pair.startswith(b"JENKINS_PROVISIONER_"):
            key, _, value = pair.decode(errors="replace").partition("=")
            values[key] = value
    if OWNER_VARIABLE not in values or AGENT_VARIABLE not in values:
        return None
    return values[OWNER_VARIABLE], values[AGENT_VARIABLE]


def members(agent: str, leader: ProcessId | None) -> list[Process]:
    """Every living process of an agent: its session, and whoever carries its mark in another session.

    Args:
        agent: the name in the mark.
        leader: the session's first process, if it is known; it may be dead.
    """
    if not readable():
        seen = look(leader.pid) if leader else None
        return [seen] if seen else []
    led = look(leader.pid) if leader else None
    # the number may belong to a stranger by now, and then so does the session of that number
    ours = leader is not None and (led is None or led.id == leader)
    found = []
    for process in everyone():
        if process.id.pid == os.getpid():
            continue
        in_session = (
            ours
            and leader is not None
            and process.session == leader.pid
            and process.id.start_ticks >= leader.start_ticks
        )
        if in_session or ((marked := mark(process.id.pid)) is not None and marked[1] == agent):
            found.append(process)
    return found


def age_s(process: ProcessId) -> float | None:
    """Seconds since the process started."""
    if not readable():
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_ticks / _TICKS_PER_S)


def reap(pid: int) -> int | None:
    """Take the exit code of a dead child (128 + signal if one ended it), so that no zombie is left.

    Returns:
        None if it lives, is no child of ours, or was reaped before.
    """
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if done == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
