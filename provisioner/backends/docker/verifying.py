"""What an engine lacks for a container, found without making one."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.backends.docker import reading
from provisioner.backends.docker.container import disk_bytes
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.backends.docker.faults import read_error

_ENGINE_NETWORKS = ("bridge", "host", "none", "default")
#: Storage drivers that can bound a container's disk; overlay2 only on xfs with project quotas.
_SIZED = ("btrfs", "zfs", "devicemapper", "windowsfilter")


def place_problems(
    engine: Engine, network: str | None, runtime: str | None, template: Mapping[str, object]
) -> list[str]:
    """A sentence for everything that is missing.

    Args:
        engine: where.
        network: what containers join.
        runtime: what runs them.
        template: the template's own keys.

    Raises:
        LaunchError: the engine does not say.
    """
    problems = []
    try:
        if network and network not in _ENGINE_NETWORKS and not network.startswith("container:"):
            try:
                engine.call("GET", f"/networks/{name(network)}", timeout_s=reading.READ_S)
            except RefusedError as refused:
                if refused.code != 404:
                    raise
                problems.append(f"the engine has no network `{network}`; make it, or write another `network`")
        if runtime or disk_bytes(template):
            found = engine.call("GET", "/info", timeout_s=reading.READ_S).json()
            info = found if isinstance(found, Mapping) else {}
            if runtime and runtime not in (info.get("Runtimes") or {}):
                known = ", ".join(sorted(info.get("Runtimes") or {})) or "none"
                problems.append(f"the engine has no runtime `{runtime}`; it has {known}")
            if disk_bytes(template) and not _can_size(info):
                problems.append(
                    f"the engine cannot bound a container's disk with its storage driver {_driver(info)}; leave "
                    "`resources.disk` out, or give the engine btrfs, zfs, or overlay2 on xfs mounted with pquota"
                )
    except RefusedError as refused:
        raise read_error(refused, "network, runtimes and storage") from refused
    return problems


def _can_size(info: Mapping[str, object]) -> bool:
    return info.get("Driver") in _SIZED or (info.get("Driver") == "overlay2" and _below(info) == "xfs")


def _below(info: Mapping[str, object]) -> str:
    rows = info.get("DriverStatus")
    return next((str(row[1]) for row in rows if row[0] == "Backing Filesystem"), "") if isinstance(rows, list) else ""


def _driver(info: Mapping[str, object]) -> str:
    return f"{info.get('Driver')}{f' on {_below(info)}' if _below(info) else ''}"
