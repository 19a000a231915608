"""The small shell program between the sidecar and the agent's command.

It waits until its process number is on disk, so that a sidecar that dies in between leaves nothing
running: the pipe closes and it exits. It stays as the parent of the command, so that the exit code
is known even to a later sidecar.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provisioner.backends.process.folder import Folder
from provisioner.backends.process.proc import ProcessId, look
from provisioner.model.errors import LaunchError, NoRoom, Reason

# `trap :` and not `trap ''`: a caught signal is back at its default in the command, an ignored one stays
# ignored. The launcher outlives a SIGTERM to its group just long enough to write the exit code.
_SCRIPT = """\
IFS= read -r word && [ "$word" = go ] || exit 0
folder=$1; shift
cd "$folder/work" || exit 126
: > ../started
trap : TERM INT HUP
"$@" {streams}
code=$?
cd "$folder" && echo "$code" > exit.part && mv exit.part exit
exit "$code"
"""
#: How the kernel says that the machine, or our user there, has as many as it may.
_NO_MORE_PROCESSES = frozenset({errno.EAGAIN, errno.ENOMEM})
_NO_STREAMS = "< /dev/null"
#: Each end of a named pipe waits for the other: so does the command, until its channel is opened.
_CHANNEL = "< ../in > ../out"


@dataclass(slots=True)
class Launch:
    """A launcher that waits; nothing of the command runs yet."""

    process: ProcessId
    _pipe: int

    def go(self) -> None:
        """Let it run the command.

        Raises:
            LaunchError: it died meanwhile.
        """
        try:
            os.write(self._pipe, b"go\n")
        except OSError as error:
            raise LaunchError(
                f"the launcher (process {self.process.pid}) died before it could run the agent",
                reason=Reason.AGENT_EXITED,
                retryable=True,
            ) from error

    def close(self) -> None:
        """Let go of the pipe; a launcher that was not told to go exits. Idempotent."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def launch(folder: Folder, command: Sequence[str], env: Mapping[str, str], *, channel: bool = False) -> Launch:
    """Start the launcher in a session of its own and write down its number.

    Args:
        folder: the agent's.
        command: what it runs.
        env: all of the command's environment.
        channel: the command's input and output are the folder's named pipes.

    Raises:
        LaunchError: this machine could not start a process.
    """
    script = _SCRIPT.format(streams=_CHANNEL if channel else _NO_STREAMS)
    read, write = os.pipe()  # neither end is inherited by other children
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", script, "jenkins-provisioner", str(folder.path), *command],
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(folder.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        )
    except OSError as error:
        os.close(write)
        problem = f"{folder.agent} cannot be started: {error.strerror}"
        if error.errno in _NO_MORE_PROCESSES:
            raise NoRoom(problem, lacks="it has no room for more processes") from error
        raise LaunchError(problem, reason=Reason.CREATE_REJECTED, retryable=True) from error
    finally:
        os.close(read)
    seen = look(pid)
    launched = Launch(seen.id if seen else ProcessId(pid=pid, start_ticks=0), write)
    folder.save_process(launched.process)
    return launched
