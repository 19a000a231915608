"""What the engine's refusals mean: from its words to our reasons.

The engine has no error codes beyond HTTP's, so its words are all there is. They are those of engines 20.10
and newer; a text that nobody knows keeps the general reason of the step.
"""

from __future__ import annotations

from provisioner.backends.docker.engine import RefusedError
from provisioner.model.errors import LaunchError, Reason

_FULL = ("no space left on device", "disk quota exceeded")

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

_RETRYABLE = frozenset({Reason.REGISTRY_ERROR, Reason.DISK_FULL, Reason.PROVIDER_UNREACHABLE})


def pull_error(refused: RefusedError, image: str) -> LaunchError:
    """Why an image could not be pulled; what nobody knows is the registry's fault, which waits and is retried."""
    reason = _first(refused.message, (_FULL, Reason.DISK_FULL), (_NO_IMAGE, Reason.IMAGE_NOT_FOUND))
    reason = reason or _first(refused.message, (_DENIED, Reason.IMAGE_DENIED)) or Reason.REGISTRY_ERROR
    said = {
        Reason.DISK_FULL: f"there is no space for the image {image}",
        Reason.IMAGE_NOT_FOUND: f"there is no image {image}",
        Reason.IMAGE_DENIED: f"the registry does not let us pull the image {image}",
        Reason.REGISTRY_ERROR: f"the image {image} could not be pulled",
    }[reason]
    return LaunchError(f"{said}: {refused.message}", reason=reason, retryable=reason in _RETRYABLE)


def start_error(refused: RefusedError, agent: str) -> LaunchError:
    """Why a container could not be made or started."""
    advice = next((told for words, told in _ADVICE if words in refused.message.lower()), "")
    reason = (
        _first(
            refused.message,
            (_FULL, Reason.DISK_FULL),
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


def _first(message: str, *known: tuple[tuple[str, ...], Reason]) -> Reason | None:
    lower = message.lower()
    for words, reason in known:
        if any(word in lower for word in words):
            return reason
    return None
