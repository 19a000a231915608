"""The folder of one agent: what is written there, and when.

The layout::

    WORK_DIR/OWNER/AGENT/        0700; its existence is the intent to start a process
        port                     on which the command listens, if it does
        process                  number and start time of the launcher, before it may run anything
        started                  made by the launcher as it goes on to the command
        exit                     the command's exit code
        log                      output of launcher and command
        in, out                  named pipes of a command with a channel
        opened                   made by who opens the channel
        secrets/                 0700, files 0600
        work/                    the agent's root
    WORK_DIR/.jar/SHA256.jar     shared by all agents of that agent.jar
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from provisioner.backends.contract import SecretFile
from provisioner.backends.process.proc import ProcessId
from provisioner.model.errors import LaunchError, Reason

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Folder:
    """One agent's folder."""

    path: Path

    @classmethod
    def of(cls, work_dir: Path, owner: str, agent: str) -> Folder:
        """The folder of an agent, whether it exists or not.

        Raises:
            LaunchError: a name that could lead out of the work folder.
        """
        for name in (owner, agent):
            if not _NAME.fullmatch(name):
                raise LaunchError(
                    f"`{name}` cannot be the name of a folder; use letters, digits, dots, dashes and underscores",
                    reason=Reason.TEMPLATE_INVALID,
                )
        return cls(work_dir / owner / agent)

    @property
    def agent(self) -> str:
        """Whose it is."""
        return self.path.name

    @property
    def work(self) -> Path:
        """The agent's root."""
        return self.path / "work"

    @property
    def secrets(self) -> Path:
        """Where its secret files are."""
        return self.path / "secrets"

    @property
    def log(self) -> Path:
        """Output of the launcher and the command."""
        return self.path / "log"

    @property
    def input(self) -> Path:
        """Of a command with a channel: the named pipe that it reads."""
        return self.path / "in"

    @property
    def output(self) -> Path:
        """Of a command with a channel: the named pipe that it writes."""
        return self.path / "out"

    def make_channel(self) -> None:
        """Create the named pipes."""
        for pipe in (self.input, self.output):
            os.mkfifo(pipe, 0o600)

    def claim_channel(self) -> bool:
        """Write down that the channel is opened; False if it was before, or if there is none."""
        try:
            os.close(os.open(self.path / "opened", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError:
            return False
        return self.input.is_fifo()

    def make(self) -> None:
        """Create it, empty but for the work folder."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.work.mkdir(mode=0o700, exist_ok=True)

    def write_secrets(self, files: tuple[SecretFile, ...]) -> None:
        """Write the secret files, readable by this user alone.

        Raises:
            LaunchError: a file name with a slash in it.
        """
        self.secrets.mkdir(mode=0o700, exist_ok=True)
        for file in files:
            if not _NAME.fullmatch(file.name):
                raise LaunchError(
                    f"secret file `{file.name}` of {self.agent} needs a plain file name",
                    reason=Reason.TEMPLATE_INVALID,
                )
            path = self.secrets / file.name
            path.unlink(missing_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(file.content)

    def save_port(self, port: int) -> None:
        """Write down where the command is to listen."""
        (self.path / "port").write_text(str(port))

    def port(self) -> int | None:
        """Where the command listens; None if it does not."""
        try:
            text = (self.path / "port").read_text()
        except OSError:
            return None
        return int(text) if text.isdigit() else None

    def save_process(self, process: ProcessId) -> None:
        """Write down the launcher, at once or not at all."""
        part = self.path / "process.part"
        part.write_text(str(process))
        part.replace(self.path / "process")

    def process(self) -> ProcessId | None:
        """The launcher that was written down; it may be dead."""
        try:
            return ProcessId.parse((self.path / "process").read_text())
        except OSError:
            return None

    def started(self) -> bool:
        """Whether the launcher went on to the command."""
        return (self.path / "started").exists()

    def exit_code(self) -> int | None:
        """The command's exit code; None while it runs, or if the launcher was killed."""
        try:
            text = (self.path / "exit").read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdigit() else None

    def save_exit_code(self, code: int) -> None:
        """Write down an exit code that the launcher could not; nothing if it did, or if the folder is gone."""
        try:
            handle = os.open(self.path / "exit", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError:
            return
        with os.fdopen(handle, "w") as out:
            out.write(str(code))

    def age_s(self) -> float | None:
        """Seconds since it was made; None if it is gone."""
        try:
            return max(0.0, time.time() - self.work.stat().st_ctime)
        except OSError:
            return None

    def tail(self, lines: int) -> tuple[str, ...]:
        """Last lines of the log, however large it has become."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - _TAIL_BYTES))
                text = log.read(_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ()
        found = text.splitlines()
        if size > _TAIL_BYTES:
            found = found[1:]  # it was cut in the middle
        return tuple(found[-lines:]) if lines > 0 else ()

    def head(self, lines: int) -> tuple[str, ...]:
        """First lines of the log."""
        try:
            with self.log.open("rb") as log:
                return tuple(log.read(_TAIL_BYTES).decode(errors="replace").splitlines()[:lines])
        except OSError:
            return ()

    def remove(self) -> None:
        """Delete it and all within, the secrets first; gone already is done.

        Raises:
            LaunchError: something in it cannot be deleted.
        """
        for path in (self.secrets, self.path):
            # builds leave folders that even their owner may not write to, and files that vanish meanwhile
            for _attempt in range(3):
                shutil.rmtree(path, ignore_errors=True)
                if not path.exists():
                    break
                _make_writable(path)
        if self.path.exists():
            raise LaunchError(
                f"the folder {self.path} of {self.agent} cannot be removed; it is tried again", retryable=True
            )


def _make_writable(top: Path) -> None:
    for folder, names, _files in os.walk(top):
        for name in (".", *names):
            path = Path(folder) / name
            if not path.is_symlink():
                try:
                    path.chmod(stat.S_IRWXU)
                except OSError:  # another user's, or gone: the removal that follows tells
                    continue


def keep_jar(work_dir: Path, jar: bytes) -> Path:
    """Where the agent.jar of this content is; whole once it is there, also with other threads and sidecars at it."""
    path = work_dir / ".jar" / f"{hashlib.sha256(jar).hexdigest()}.jar"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        part.write_bytes(jar)
        part.replace(path)
    return path
