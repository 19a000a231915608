"""The token of the API: made at the first start, readable by the sidecar's own user only."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import structlog

from provisioner.model.errors import ConfigError

log = structlog.get_logger()

_RANDOM_BYTES = 32
_SHORT = 16
_MOST_BYTES = 4096


def read_or_make_token(path: Path) -> str:
    """The token in a file; a missing file is made with a random one.

    Raises:
        ConfigError: the file cannot be made or read, or holds no token.
    """
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        raise ConfigError(
            f"http.token_file: {path} cannot be used: {error.strerror}; give a file that this user can read or make"
        ) from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # written aside and linked into place: nobody ever reads half a token, and of two starts one wins
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(_RANDOM_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return
    finally:
        aside.unlink()
    log.info("token.made", file=str(path))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        token = file.read(_MOST_BYTES).strip()
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    if not token or not token.isascii() or not token.decode().isprintable() or b" " in token:
        raise ConfigError(
            f"http.token_file: {path} holds no token; put one line of letters and digits there, or remove the file "
            "to have one made"
        )
    if mode & 0o077:
        log.warning("token.readable_by_others", file=str(path), mode=f"{mode:04o}", next="chmod 600")
    if len(token) < _SHORT:
        log.warning("token.short", file=str(path), next="remove the file to have a random one made")
    return token.decode()
