"""A connection to an engine over SSH as a socket of this machine, for who cannot wait in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

from provisioner.backends.docker.engine import Engine

_PIECE_BYTES = 64 * 1024


async def by_ssh(engine: Engine) -> socket.socket:
    """A socket whose other end two threads carry to the engine and back.

    Raises:
        OSError: there is no way through.
    """
    far = await asyncio.to_thread(engine.dial_by_ssh)
    far.settimeout(None)
    ours, theirs = socket.socketpair()
    for name, work in (("there", _carry_there), ("back", _carry_back)):
        threading.Thread(target=work, args=(theirs, far), name=f"docker-ssh-{name}", daemon=True).start()
    return ours


def _carry_there(near: socket.socket, far: Any) -> None:
    """Until our side ends; an end of our side alone is passed on."""
    with contextlib.suppress(OSError, EOFError):
        while data := near.recv(_PIECE_BYTES):
            far.sendall(data)
    with contextlib.suppress(OSError, EOFError):
        far.shutdown_write()


def _carry_back(near: socket.socket, far: Any) -> None:
    """Until the engine's side ends; then there is nothing left to carry."""
    try:
        while data := far.recv(_PIECE_BYTES):
            near.sendall(data)
    except (OSError, EOFError):
        pass
    finally:
        far.close()
        near.close()
