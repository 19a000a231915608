"""`read_only: true`: which folders of a container can still be written, though its root cannot (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from provisioner.backends.contract import Order

#: What programs write to wherever they run; an image's own content of it is hidden.
_IN_MEMORY = ("/tmp", "/run")  # noqa: S108  (of the container)
#: The engine's own defaults but `noexec`: Java unpacks libraries to /tmp, and builds run scripts there.
MEMORY_OPTIONS = "rw,exec,nosuid,nodev,mode=1777"


class Writable(NamedTuple):
    """Folders that can be written."""

    on_disk: tuple[str, ...]  # each a volume that goes with the container, with what the image has there
    in_memory: tuple[str, ...]  # each empty at the start


def is_read_only(order: Order) -> bool:
    """Whether the container's root is to be read-only."""
    return order.template.get("read_only") is True


def writable(order: Order, mounted: Iterable[str]) -> Writable:
    """What such a container can write to, besides what is mounted anyway.

    Args:
        order: what is asked for.
        mounted: where volumes are mounted already.

    A link to a secret needs a folder that can be written when the container is filled, which is before the engine
    mounts what is in memory.
    """
    before = _plain(mounted)
    volumes = _plain((*before, order.remote_fs))
    asked = order.template.get("tmpfs")
    memory = _plain((*_IN_MEMORY, *(map(str, asked) if isinstance(asked, Sequence) else ())))
    for folder in sorted({str(PurePosixPath(file.at).parent) for file in order.files if file.at}):
        if _over(folder, (*volumes, *memory)) not in volumes:
            volumes.append(folder)
    return Writable(
        tuple(folder for folder in volumes if folder not in before),
        tuple(folder for folder in memory if folder not in volumes),
    )


def _plain(folders: Iterable[str]) -> list[str]:
    """Each once, without a slash at its end."""
    return list(dict.fromkeys(str(PurePosixPath(folder)) for folder in folders))


def _over(folder: str, places: Iterable[str]) -> str | None:
    """The innermost of these places that a folder is in."""
    return max((place for place in places if PurePosixPath(folder).is_relative_to(place)), key=len, default=None)
