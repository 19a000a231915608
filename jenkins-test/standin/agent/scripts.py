"""Shell scripts of builds: started, watched, stopped. A durable one outlives the connection and the agent."""

# ruff: noqa: PTH100, PTH103, PTH110, PTH112, PTH117, PTH118, PTH123, PTH208, SIM105, RUF100
# neither pathlib, contextlib nor typing: each import is paid at every start of an agent

from __future__ import annotations

import base64
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PIECE = 60000
POLL_S = 0.05


class Running:
    """One script. A plain one writes to a pipe; a durable one to files that a later agent can read."""

    def __init__(self, key: str, pid: int, pipe: int | None, folder: str | None, offset: int) -> None:
        self.key = key
        self.pid = pid  # 0: started by an earlier agent
        self.pipe = pipe
        self.folder = folder
        self.offset = offset
        self.code: int | None = None


class Scripts:
    def __init__(self, work_dir: str) -> None:
        self.work_dir = work_dir
        self.running: dict[str, Running] = {}

    def run(self, message: dict[str, Any]) -> None:
        key = message["id"]
        folder = os.path.join(self.work_dir, "durable", key) if message["durable"] else None
        if folder and os.path.isdir(folder):
            known = self.running.get(key)
            if known is None:
                self.running[key] = Running(key, 0, None, folder, message["offset"])
            else:
                known.offset = message["offset"]
            return
        cwd = message["cwd"]
        if not os.path.isabs(cwd):
            cwd = os.path.join(self.work_dir, cwd)
        try:
            os.makedirs(cwd, exist_ok=True)
            if folder:
                os.makedirs(folder)
        except OSError:
            # a static node's remote folder may be another machine's; its work folder is always there
            cwd = os.path.join(self.work_dir, os.path.relpath(cwd, "/"))
            os.makedirs(cwd, exist_ok=True)
            if folder and not os.path.isdir(folder):
                raise
        env = {**os.environ, **message["env"], "WORKSPACE": cwd}
        self.running[key] = self._start(key, message["script"], cwd, env, folder)

    def _start(self, key: str, script: str, cwd: str, env: dict[str, str], folder: str | None) -> Running:
        read, write = (-1, -1) if folder else os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.chdir(cwd)
                null = os.open(os.devnull, os.O_RDONLY)
                os.dup2(null, 0)
                out = (
                    os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                    if folder
                    else write
                )
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.closerange(3, 256)
                if not folder:
                    os.execve("/bin/sh", ["sh", "-xe", "-c", script], env)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                with open(os.path.join(folder, "script"), "w", encoding="utf-8") as file:
                    file.write(script)
                keeper = 'sh -xe "$1/script"; echo $? > "$1/code.new"; mv "$1/code.new" "$1/code"'
                os.execve("/bin/sh", ["sh", "-c", keeper, "keeper", folder], env)
            except OSError as error:
                os.write(2, f"{error}\n".encode())
            os._exit(127)
        if folder:
            return Running(key, pid, None, folder, 0)
        os.close(write)
        os.set_blocking(read, False)
        return Running(key, pid, read, None, 0)

    def wait_for(self) -> tuple[list[int], float | None]:
        """What to watch, and for how long, before `news` is asked."""
        pipes = [s.pipe for s in self.running.values() if s.pipe is not None]
        polled = any(s.pipe is None for s in self.running.values())
        return pipes, POLL_S if polled else None

    def news(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for script in list(self.running.values()):
            data = self._pipe(script) if script.folder is None else self._file(script, script.folder)
            for at in range(0, len(data), PIECE):
                piece = base64.b64encode(data[at : at + PIECE]).decode()
                messages.append({"op": "out", "id": script.key, "data": piece})
            if script.code is not None:
                messages.append({"op": "end", "id": script.key, "code": script.code})
                del self.running[script.key]
        return messages

    def _pipe(self, script: Running) -> bytes:
        data = b""
        while script.pipe is not None:
            try:
                piece = os.read(script.pipe, 65536)
            except BlockingIOError:
                return data + self._reaped(script)
            if not piece:
                os.close(script.pipe)
                script.pipe = None
            data += piece
        return data + self._reaped(script)

    def _reaped(self, script: Running) -> bytes:
        """The script has ended when its shell has, whoever else still holds the pipe."""
        pid, status = os.waitpid(script.pid, os.WNOHANG)
        if pid:
            script.code = os.waitstatus_to_exitcode(status)
            if script.code < 0:
                script.code = 128 - script.code
            if script.pipe is not None:
                os.close(script.pipe)
        return b""

    def _file(self, script: Running, folder: str) -> bytes:
        done = os.path.join(folder, "code")
        ended = os.path.exists(done)  # first: what the log holds after this is all of it
        data = b""
        try:
            with open(os.path.join(folder, "log"), "rb") as file:
                file.seek(script.offset)
                data = file.read()
        except FileNotFoundError:
            pass
        script.offset += len(data)
        gone = False
        if script.pid:
            pid, _ = os.waitpid(script.pid, os.WNOHANG)
            if pid:
                script.pid = 0
                gone = not os.path.exists(done)
        if ended:
            with open(done, encoding="ascii") as file:
                script.code = int(file.read())
        elif gone:
            script.code = 143
        return data

    def cancel(self, key: str) -> None:
        script = self.running.pop(key, None)
        if script is None:
            return
        if script.pid:
            end_tree(script.pid)
            os.waitpid(script.pid, 0)
        if script.pipe is not None:
            os.close(script.pipe)

    def disconnected(self) -> None:
        """Plain scripts end with the connection; durable ones go on."""
        for script in list(self.running.values()):
            if script.folder is None:
                self.cancel(script.key)

    def end_all(self) -> None:
        for key in list(self.running):
            script = self.running[key]
            if script.folder is None:
                self.cancel(key)


def end_tree(top: int) -> None:
    """SIGTERM to a process and all below it; the children first, as their parent may wait for them."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    doomed = [top]
    for pid in doomed:
        doomed += [child for child, parent in parents.items() if parent == pid]
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
