"""Removing what belongs to an agent. Gone already is done; all of it may be called again at any time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from provisioner.backends.contract import AGENT_KEY, Found
from provisioner.backends.docker.engine import Engine, RefusedError, filters, name
from provisioner.backends.docker.faults import removal_error
from provisioner.model.errors import LaunchError, Reason

#: How long a removal that somebody else began may take.
_GOING_S = 30.0


def remove_agent(engine: Engine, agent: str, ids: Mapping[str, str]) -> None:
    """Remove an agent's container with its anonymous volumes, and its secret volume.

    Raises:
        LaunchError: something of it is still there.
    """
    saved = ids.get("container")
    if saved is None or not remove_container(engine, saved):
        # no id was saved, or not the last one: the mark finds it
        for container in marked(engine, agent):
            remove_container(engine, container)
    try:
        remove_volume(engine, agent)
    except RefusedError as refused:
        if refused.code != 409:
            raise removal_error(refused, f"volume of {agent}") from refused
        # in use: by a container of ours that a dead sidecar asked for, and that came only now
        for container in marked(engine, agent):
            remove_container(engine, container)
        try:
            remove_volume(engine, agent)
        except RefusedError as again:
            raise removal_error(again, f"volume of {agent}") from again


def marked(engine: Engine, agent: str) -> list[str]:
    """Ids of all containers with the agent's mark."""
    try:
        found = engine.call(
            "GET", "/containers/json", query={"all": "1", **filters(label=f"{AGENT_KEY}={agent}")}
        ).json()
    except RefusedError as refused:
        raise removal_error(refused, f"containers of {agent}") from refused
    return [str(one["Id"]) for one in found] if isinstance(found, Sequence) else []


def remove_container(engine: Engine, container: str) -> bool:
    """Remove a container, running or not; True if there was one.

    Raises:
        LaunchError: it is still there.
    """
    deadline = time.monotonic() + _GOING_S
    existed = False
    while True:
        try:
            engine.call("DELETE", f"/containers/{name(container)}", query={"force": "1", "v": "1"})
        except RefusedError as refused:
            if refused.code == 404:
                return existed
            if refused.code != 409:
                raise removal_error(refused, f"container {container[:12]}") from refused
            existed = True  # somebody removes it already: wait for that
        else:
            return True
        if time.monotonic() > deadline:
            raise LaunchError(
                f"the removal of the container {container[:12]} does not end; it is tried again",
                reason=Reason.PROVIDER_UNREACHABLE,
                retryable=True,
            )
        time.sleep(0.05)


def remove_volume(engine: Engine, volume: str) -> None:
    """Remove a volume.

    Raises:
        RefusedError: 409 while a container uses it.
    """
    try:
        engine.call("DELETE", f"/volumes/{name(volume)}")
    except RefusedError as refused:
        if refused.code != 404:
            raise


def remove_unless_used(engine: Engine, path: str, *, force: bool = False, timeout_s: float | None = None) -> bool:
    """Remove a container or a volume that nobody needs; False if something has it, or is removing it already.

    Raises:
        RefusedError: it was refused for another reason.
    """
    try:
        engine.call("DELETE", path, query={"force": "1", "v": "1"} if force else {}, timeout_s=timeout_s)
    except RefusedError as refused:
        if refused.code not in (404, 409):
            raise
        return refused.code == 404
    return True


def remove_found(engine: Engine, found: Found) -> None:
    """Remove one thing that a listing showed.

    Raises:
        LaunchError: it is still there.
    """
    if found.kind == "container":
        remove_container(engine, found.id)
        return
    try:
        if found.kind == "volume":
            remove_volume(engine, found.id)
        elif found.kind == "network":
            engine.call("DELETE", f"/networks/{name(found.id)}")
    except RefusedError as refused:
        if refused.code != 404:
            raise removal_error(refused, f"{found.kind} {found.id}") from refused
