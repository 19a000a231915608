"""What the engine's refusals mean: from its words to our reasons.

The engine has no error codes beyond HTTP's, so its words are all there is. They are those of engines 20.10
and newer; a text that nobody knows keeps the general reason of the step.
"""

from __future__ import annotations

import re

from provisioner.backends.docker.engine import RefusedError
from provisioner.model.errors import LaunchError, NoRoom, Reason

#: What the engine's host has no more of: nothing is wrong with the container, and it starts when others are gone.
#: The kernel says `no space left on device` of control groups too. A limit of the container's own, of memory or
#: processes, speaks out of the container, and is no want of room.
_NO_ROOM: tuple[tuple[str, Reason, str], ...] = (
    (r"no available (ipv[46]|ip) addresses on this network", Reason.NO_ADDRESS, "no address is free in its network"),
    (r"non-overlapping ipv[46] address pool|address pools have been fully subnetted", Reason.NO_ADDRESS,
     "no range of addresses is free for a network"),
    (r"all ports are allocated", Reason.CREATE_REJECTED, "no port is free"),
    (r"to bridge \S+ failed: exchange full", Reason.CREATE_REJECTED, "its network takes no more containers"),
    (r"mkdir \S*/cgroup\S*: (no space left on device|cannot allocate memory)", Reason.CREATE_REJECTED,
     "its kernel has no control group left"),
    (r"fork/exec /\S+: (resource temporarily unavailable|cannot allocate memory)", Reason.CREATE_REJECTED,
     "it has no room for more processes"),
    (r"too many open files", Reason.CREATE_REJECTED, "it has too many open files"),
    (r"no space left on device|disk quota exceeded|free data blocks which is less than minimum required",
     Reason.DISK_FULL, "its disk is full"),
)  # fmt: skip

_NO_IMAGE = (
    "manifest unknown",
    "manifest not found",
    "name unknown",
    "name_unknown",
    "no such image",
    "no matching manifest",
    "invalid reference format",
    "invalid repository name",
    "invalid tag format",
    "repository name not known",
    "unsupported media type",
    "does not match the specified platform",
)

_DENIED = (
    "access denied",
    "access forbidden",
    "denied:",
    "unauthorized",
    "no basic auth credentials",
    "authentication required",
    "incorrect username or password",
    "401 ",
    "403 ",
)

#: The container was made and its command could not be run: the image lacks it. (With an init in front, the
#: container starts all the same and ends with exit code 127; this is for engines that start it directly.)
_NO_COMMAND = ("executable file not found", "exec format error", "exec: ", "unable to find user")

#: What the engine's own words leave open.
_ADVICE = (
    ("storage-opt", "; `resources.disk` needs an engine with btrfs, zfs, or overlay2 on xfs mounted with pquota"),
    ("capabilities: [[gpu]]", "; `resources.gpus` needs NVIDIA's container toolkit on the engine's host"),
)

_RETRYABLE = frozenset({Reason.REGISTRY_ERROR, Reason.PROVIDER_UNREACHABLE})


def pull_error(refused: RefusedError, image: str) -> LaunchError:
    """Why an image could not be pulled; what nobody knows is the registry's fault, which waits and is retried."""
    if (full := _no_room(refused, f"pull the image {image}")) is not None:
        return full
    reason = _first(refused.message, (_NO_IMAGE, Reason.IMAGE_NOT_FOUND), (_DENIED, Reason.IMAGE_DENIED))
    reason = reason or Reason.REGISTRY_ERROR
    said = {
        Reason.IMAGE_NOT_FOUND: f"there is no image {image}",
        Reason.IMAGE_DENIED: f"the registry does not let us pull the image {image}",
        Reason.REGISTRY_ERROR: f"the image {image} could not be pulled",
    }[reason]
    return LaunchError(f"{said}: {refused.message}", reason=reason, retryable=reason in _RETRYABLE)


def start_error(refused: RefusedError, agent: str) -> LaunchError:
    """Why a container could not be made or started."""
    if (full := _no_room(refused, f"start the container {agent}")) is not None:
        return full
    advice = next((told for words, told in _ADVICE if words in refused.message.lower()), "")
    reason = (
        _first(
            refused.message,
            (("no such image",), Reason.IMAGE_NOT_FOUND),
            (_NO_COMMAND, Reason.AGENT_EXITED),
        )
        or Reason.CREATE_REJECTED
    )
    return LaunchError(
        f"the engine cannot start the container {agent}: {refused.message}{advice}",
        reason=reason,
        retryable=reason in _RETRYABLE or refused.code >= 500,
    )


def removal_error(refused: RefusedError, what: str) -> LaunchError:
    """Why something could not be removed; it is always tried again."""
    return LaunchError(
        f"the engine cannot remove the {what}: {refused.message}; it is tried again",
        reason=Reason.PROVIDER_UNREACHABLE if refused.code >= 500 else Reason.INTERNAL_ERROR,
        retryable=True,
    )


def read_error(refused: RefusedError, what: str) -> LaunchError:
    """Why something could not be looked at."""
    return LaunchError(
        f"the engine does not show the {what}: {refused.message}", reason=Reason.PROVIDER_UNREACHABLE, retryable=True
    )


def _no_room(refused: RefusedError, what: str) -> NoRoom | None:
    for words, reason, lacks in _NO_ROOM:
        if re.search(words, refused.message, re.IGNORECASE):
            return NoRoom(f"the engine cannot {what}, {lacks}: {refused.message}", lacks=lacks, reason=reason)
    return None


def _first(message: str, *known: tuple[tuple[str, ...], Reason]) -> Reason | None:
    lower = message.lower()
    for words, reason in known:
        if any(word in lower for word in words):
            return reason
    return None
