"""Every process of this machine, as any program sees it."""

from __future__ import annotations

from pathlib import Path


def processes() -> list[tuple[str, str]]:
    """Command line and environment of every process that may be seen."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append(
                    tuple((folder / f).read_bytes().decode("utf-8", "replace") for f in ("cmdline", "environ"))
                )
            except OSError:
                continue
    return [(cmd, environ) for cmd, environ in found]
