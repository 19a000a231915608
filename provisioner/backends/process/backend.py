"""The `process` backend: one session of processes per agent, on the sidecar's own machine.

It separates nothing: the agent runs as the sidecar's user (`run_as` and resource limits do not
apply) and in a folder of its own instead of the template's `remote_fs`. Processes outlive the
sidecar and are found again by their folder, or by the mark in their environment.
"""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from provisioner.backends.contract import (
    Channel,
    Checkpoint,
    Ended,
    Found,
    InstanceState,
    Listing,
    Order,
    Progress,
    Stats,
    Status,
)
from provisioner.backends.process import proc
from provisioner.backends.process.channel import open_pipes
from provisioner.backends.process.exits import Exits
from provisioner.backends.process.folder import Folder, keep_jar
from provisioner.backends.process.launcher import Launch, launch
from provisioner.backends.process.proc import ProcessId
from provisioner.backends.turns import Turns
from provisioner.model.errors import LaunchError, NoRoom, Reason
from provisioner.transports.dialling import Address

P = ParamSpec("P")
T = TypeVar("T")

#: All that an agent inherits; the sidecar's own environment may hold its token.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "JAVA_HOME")

_LAUNCH_S = 20.0  # from its word to go until the launcher goes; a moment, but for a machine that thrashes
_KILL_PATIENCE_S = 10.0  # after SIGKILL; only a process in the kernel's hands stays longer


class ProcessBackend:
    """Instances are processes of this machine.

    Args:
        work_dir: where the agents' folders are; one per machine, shared by any number of owners.
        java: the Java program; default: the one in PATH.
        grace_s: what a process has between SIGTERM and SIGKILL.
        ssh_host: this machine as the controller reaches it; None: they share it.
    """

    def __init__(
        self, *, work_dir: Path, java: str | None = None, grace_s: float = 2.0, ssh_host: str | None = None
    ) -> None:
        self._ssh_host = ssh_host
        self._work_dir = work_dir.absolute()
        self._java = java or "java"
        self._grace_s = grace_s
        self._turns = Turns()
        self._exits = Exits()
        self._starts = ThreadPoolExecutor(4, thread_name_prefix="process-start")
        self._stops = ThreadPoolExecutor(4, thread_name_prefix="process-stop")
        self._reads = ThreadPoolExecutor(2, thread_name_prefix="process-read")

    async def open(self) -> None:
        """Make the work folder, and watch the processes of an earlier sidecar."""
        try:
            self._work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(
                f"the work folder {self._work_dir} cannot be made: {error.strerror}",
                reason=Reason.PROVIDER_UNREACHABLE,
                retryable=True,
            ) from error
        for folder in self._folders():
            process = folder.process()
            if process is not None and proc.alive(process):
                self._exits.watch(folder, process)

    async def close(self) -> None:
        """Let go; the processes live on."""
        self._exits.close()
        for pool in (self._starts, self._stops, self._reads):
            pool.shutdown(wait=False)

    async def ping(self) -> str:
        """The machine's system and name."""
        return f"processes on {platform.node()} ({platform.system()} {platform.machine()})"

    def remote_root(self, owner: str, agent: str, remote_fs: str) -> str:  # noqa: ARG002  (contract)
        """The agent's own work folder: all agents share one file system."""
        return str(Folder.of(self._work_dir, owner, agent).work)

    async def verify(self, order: Order) -> tuple[str, ...]:
        """Whether the command's program is on this machine."""
        program = self._java if order.command[0] == "{sshd}" else order.command[0].replace("{java}", self._java)
        if shutil.which(program, path=_environment(order).get("PATH")) is None:
            return (f"there is no program `{program}` on this machine; install it or set the provider's `java`",)
        if any(file.at for file in order.files):
            return ("`secrets` cannot be put at a place of their own here; use `env` alone",)
        return ()

    async def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        """Start the command behind its launcher; what an earlier start left running is taken as it is."""
        self._turns.check(order.agent)
        folder = Folder.of(self._work_dir, order.owner, order.agent)
        yield Checkpoint(key="folder", value=str(folder.path))
        running = await self._turns.step(self._starts, order.agent, self._left_running, folder)
        if running is not None:
            self._exits.watch(folder, running)
            yield Checkpoint(key="pid", value=str(running))
            yield Progress(text=f"process {running.pid} of an earlier start runs already")
            return
        problems = await self.verify(order)
        if problems:
            raise LaunchError(f"{order.agent}: {problems[0]}", reason=Reason.CREATE_REJECTED)
        launched = await self._turns.step(self._starts, order.agent, self._launch, order, folder)
        try:
            self._exits.watch(folder, launched.process)
            yield Checkpoint(key="pid", value=str(launched.process))
            self._turns.check(order.agent)
            launched.go()
            await self._until_started(folder, launched.process)
        finally:
            launched.close()
        yield Progress(text=f"process {launched.process.pid} started in {folder.path} (no limits)")

    async def _until_started(self, folder: Folder, process: ProcessId) -> None:
        """Wait for the launcher to go on, so that whoever asks next finds it running."""
        deadline = time.monotonic() + _LAUNCH_S
        pause_s = 0.001
        while not folder.started():
            self._turns.check(folder.agent)
            dead = not proc.alive(process)
            if (dead and not folder.started()) or time.monotonic() > deadline:
                raise LaunchError(
                    f"the launcher (process {process.pid}) of {folder.agent} "
                    + ("died before it could run the agent" if dead else f"did not go on within {_LAUNCH_S:.0f} s"),
                    reason=Reason.AGENT_EXITED,
                    retryable=True,
                    tail=folder.tail(20),
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)

    def _left_running(self, folder: Folder) -> ProcessId | None:
        """What an earlier start left running; everything else that it left is removed."""
        process = folder.process()
        # a launcher whose sidecar died reads the end of its pipe, or the last word in it, within moments
        deadline = time.monotonic() + self._grace_s
        while process is not None and proc.alive(process) and not folder.started() and time.monotonic() < deadline:
            time.sleep(0.005)
        if process is not None and proc.alive(process) and folder.started():
            return process
        if folder.path.exists() or proc.members(folder.agent, process):
            self._remove(folder.agent, process, folder)
        return None

    def _launch(self, order: Order, folder: Folder) -> Launch:
        try:
            folder.make()
            if order.channel:
                folder.make_channel()
            folder.write_secrets(order.files)
            jar = keep_jar(self._work_dir, order.agent_jar) if order.agent_jar else None
        except OSError as error:
            problem = f"the folder of {order.agent} cannot be written: {error.strerror}"
            if error.errno in _FULL:
                raise NoRoom(problem, lacks="its disk is full", reason=Reason.DISK_FULL) from error
            raise LaunchError(problem, reason=Reason.CREATE_REJECTED, retryable=True) from error
        port = 0
        if order.listens:
            port = _free_port()
            folder.save_port(port)
        places = {
            "{port}": str(port),
            "{java}": self._java,
            "{jar}": str(jar),
            "{secrets}": str(folder.secrets),
            "{work}": str(folder.work),
        }
        command: list[str] = []
        for word in order.command:
            if word == "{sshd}":
                command += SSHD
                continue
            for place, value in places.items():
                word = word.replace(place, value)  # noqa: PLW2901  (one word, four places)
            command.append(word)
        secret_paths = {file.env: str(folder.secrets / file.name) for file in order.files if file.env}
        return launch(folder, command, _environment(order, secret_paths), channel=order.channel)

    async def open_channel(self, agent: str, ids: Mapping[str, str]) -> Channel:  # noqa: ARG002  (contract)
        """Open the named pipes of its folder, for which its command waits."""
        folder = await self._in(self._reads, self._find, agent)
        if folder is None:
            raise LaunchError(f"the process of {agent} is gone", reason=Reason.AGENT_LOST)
        return open_pipes(folder)

    def java(self, source: str) -> str:  # noqa: ARG002  (contract)
        """The provider's Java."""
        return self._java

    async def address(self, agent: str, ids: Mapping[str, str]) -> Address | None:  # noqa: ARG002  (contract)
        """A port of this machine."""
        folder = await self._in(self._reads, self._find, agent)
        port = folder.port() if folder else None
        return None if port is None else Address(host=self._ssh_host or "127.0.0.1", port=port)

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        """End the whole session and every stray with the agent's mark, then remove the folder."""
        await self._turns.stopping(agent, patience_s=self._grace_s + _KILL_PATIENCE_S)
        await self._in(self._stops, self._stop, agent, ids)

    def _stop(self, agent: str, ids: Mapping[str, str]) -> None:
        folder = self._find(agent)
        process = (folder.process() if folder else None) or ProcessId.parse(ids.get("pid", ""))
        self._remove(agent, process, folder)

    def _remove(self, agent: str, process: ProcessId | None, folder: Folder | None) -> None:
        begin = time.monotonic()
        pause_s = 0.002
        reached: set[ProcessId] = set()
        while left := proc.members(agent, process):
            waited_s = time.monotonic() - begin
            if waited_s > self._grace_s + _KILL_PATIENCE_S:
                raise LaunchError(
                    f"process {left[0].id.pid} of {agent} does not end, not even killed; it is tried again",
                    retryable=True,
                )
            for member in left:
                if waited_s >= self._grace_s:
                    _signal(member.id, signal.SIGKILL)
                elif member.id not in reached:
                    _signal(member.id, signal.SIGTERM)
                reached.add(member.id)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)
            for one in reached:
                proc.reap(one.pid)
        if process is not None:
            proc.reap(process.pid)
        if folder is not None:
            folder.remove()

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:
        """What the process does now; the exit code is known unless the launcher was killed under another sidecar."""
        return await self._in(self._reads, self._status, agent, ids)

    def _status(self, agent: str, ids: Mapping[str, str]) -> Status:
        folder = self._find(agent)
        if folder is None or not folder.path.exists():
            process = ProcessId.parse(ids.get("pid", ""))
            if proc.members(agent, process):
                return Status(state=InstanceState.RUNNING, detail="its folder is lost")
            return Status(state=InstanceState.MISSING)
        process = folder.process()
        if process is None or not folder.started():
            return Status(state=InstanceState.CREATED)
        if proc.alive(process) and folder.exit_code() is None:
            return Status(state=InstanceState.RUNNING)
        code = proc.reap(process.pid)
        if code is not None:
            folder.save_exit_code(code)
        code = folder.exit_code()
        if code is None and proc.members(agent, process):
            return Status(state=InstanceState.RUNNING, detail="its launcher was killed; the command runs on")
        return Status(state=InstanceState.EXITED, exit_code=code)

    async def stats(self, agent: str, ids: Mapping[str, str]) -> Stats:
        """Sums over the session and its strays."""
        return await self._in(self._reads, self._stats, agent, ids)

    def _stats(self, agent: str, ids: Mapping[str, str]) -> Stats:
        folder = self._find(agent)
        process = (folder.process() if folder else None) or ProcessId.parse(ids.get("pid", ""))
        members = proc.members(agent, process)
        if not members or not proc.readable():
            return Stats()
        return Stats(
            cpu_s=sum(one.cpu_s for one in members),
            memory_bytes=sum(one.memory_bytes for one in members),
            pids=len(members),
        )

    async def log_tail(self, agent: str, ids: Mapping[str, str], lines: int = 20) -> tuple[str, ...]:  # noqa: ARG002
        """Its last lines of output."""
        return await self._in(self._reads, self._log_tail, agent, lines)

    def _log_tail(self, agent: str, lines: int) -> tuple[str, ...]:
        folder = self._find(agent)
        return folder.tail(lines) if folder else ()

    async def listing(self, owner: str) -> Listing:
        """Every folder of the owner, and every process with its mark whose folder is gone."""
        return await self._in(self._reads, self._listing, owner)

    def _listing(self, owner: str) -> Listing:
        try:
            folders = [folder for folder in self._folders() if folder.path.parent.name == owner]
        except OSError:
            return Listing(found=(), complete=False)
        found = [
            Found(kind="folder", id=str(folder.path), agent=folder.agent, age_s=folder.age_s()) for folder in folders
        ]
        known = {folder.agent for folder in folders}
        for process in proc.everyone():
            marked = proc.mark(process.id.pid)
            if marked is not None and marked[0] == owner and marked[1] not in known:
                found.append(Found(kind="process", id=str(process.id), agent=marked[1], age_s=proc.age_s(process.id)))
        return Listing(found=tuple(found), complete=True)

    async def remove_found(self, found: Found) -> None:
        """Remove the agent to which the folder or process belongs."""
        await self.stop(found.agent, {"pid": found.id} if found.kind == "process" else {})

    def events(self) -> AsyncIterator[Ended]:
        """Ends of launchers, from the kernel."""
        return self._exits.listen()

    def _folders(self) -> Iterator[Folder]:
        for owner in sorted(self._work_dir.iterdir()):
            if owner.is_dir() and not owner.name.startswith("."):
                for path in sorted(owner.iterdir()):
                    if path.is_dir():
                        yield Folder(path)

    def _find(self, agent: str) -> Folder | None:
        """The agent's folder, whoever owns it: names are unique beyond one owner."""
        try:
            owners = [owner for owner in self._work_dir.iterdir() if not owner.name.startswith(".")]
        except FileNotFoundError:
            return None
        for owner in owners:
            folder = Folder.of(self._work_dir, owner.name, agent)
            if folder.path.is_dir():
                return folder
        return None

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(*args, **kwargs))


#: Our own SSH server, run by the Python that runs us and by nothing of its surroundings.
SSHD = (sys.executable, "-I", "-m", "provisioner.sshd")


def _free_port() -> int:
    """A port that nothing listens on; somebody may take it before the agent does, and its launch fails."""
    with socket.socket() as held:
        held.bind(("", 0))
        return int(held.getsockname()[1])


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def _environment(order: Order, secret_paths: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    return {
        "PATH": os.defpath,
        **inherited,
        **order.env,
        **(secret_paths or {}),
        proc.OWNER_VARIABLE: order.owner,
        proc.AGENT_VARIABLE: order.agent,
    }


def _signal(process: ProcessId, number: signal.Signals) -> None:
    """Signal exactly this process; dead already is done."""
    seen = proc.look(process.pid)
    if seen is None or seen.id != process:
        return
    try:
        if proc.readable():
            os.kill(process.pid, number)
        else:  # the others of its session are not known here
            os.killpg(process.pid, number)
    except ProcessLookupError:
        return
