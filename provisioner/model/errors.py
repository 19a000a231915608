"""One root error with a reason slug; every edge translates its vendor's errors into it."""

from __future__ import annotations

from copy import copy
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why a launch or an agent ended; the slugs of the build's console, the metrics and the docs."""

    IMAGE_NOT_FOUND = "image_not_found"
    IMAGE_DENIED = "image_denied"
    REGISTRY_ERROR = "registry_error"
    PULL_TIMEOUT = "pull_timeout"
    BUILD_FAILED = "build_failed"  # an image build, not a Jenkins build
    OVERRIDE_REFUSED = "override_refused"
    CREATE_REJECTED = "create_rejected"
    AGENT_EXITED = "agent_exited"  # before it connected
    AGENT_LOST = "agent_lost"  # after it connected
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    BOOT_FAILED = "boot_failed"
    NO_ADDRESS = "no_address"
    CONNECT_TIMEOUT = "connect_timeout"
    HOST_KEY_MISMATCH = "host_key_mismatch"
    SIDECAR_UNHEALTHY = "sidecar_unhealthy"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    TEMPLATE_INVALID = "template_invalid"
    CANCELLED = "cancelled"
    LIFETIME_EXCEEDED = "lifetime_exceeded"
    INTERNAL_ERROR = "internal_error"


#: The build's own fault: the same request would fail the same way anywhere, so it ends the build at once.
BUILDS_OWN_FAULT: frozenset[Reason] = frozenset(
    {
        Reason.IMAGE_NOT_FOUND,
        Reason.IMAGE_DENIED,
        Reason.BUILD_FAILED,
        Reason.OVERRIDE_REFUSED,
        Reason.TEMPLATE_INVALID,
        Reason.HOST_KEY_MISMATCH,
    }
)

#: The world's fault: nothing is wrong with the request; it waits and is tried again without limit.
WORLDS_FAULT: frozenset[Reason] = frozenset({Reason.PROVIDER_UNREACHABLE, Reason.REGISTRY_ERROR})

#: What to do next, told after the reason in the build's console and in docs/troubleshooting.md.
NEXT_STEP: dict[Reason, str] = {
    Reason.IMAGE_NOT_FOUND: "Check the image's name and tag in the template or in the build's parameter.",
    Reason.IMAGE_DENIED: "Give the registry's user and password under `registries:`, or let that user pull the image.",
    Reason.REGISTRY_ERROR: "Nothing to do in the job; the registry is asked again.",
    Reason.PULL_TIMEOUT: "Raise `timeouts.pull`, or pull the image on the provider's host once.",
    Reason.BUILD_FAILED: "Mend the Dockerfile; the lines above are the end of its build.",
    Reason.OVERRIDE_REFUSED: "Ask for a value that the template's `overrides` allow.",
    Reason.CREATE_REJECTED: "The provider cannot start an instance like this; mend what the sentence above names.",
    Reason.AGENT_EXITED: "Look at the instance's last lines; the image needs Java and a way to `agent_url`.",
    Reason.AGENT_LOST: "Look at the instance's last lines and at the provider's host.",
    Reason.OUT_OF_MEMORY: "Raise `resources.memory`, or let the build use less.",
    Reason.DISK_FULL: "Free space on the provider's host, or raise `resources.disk`.",
    Reason.BOOT_FAILED: "Look at the machine's console lines and at its image.",
    Reason.NO_ADDRESS: "Look at the provider's network and its address server.",
    Reason.CONNECT_TIMEOUT: "Check that the instance reaches `agent_url`; `provisioner doctor` tries each step.",
    Reason.HOST_KEY_MISMATCH: "Another machine answered at the instance's address; look for who.",
    Reason.SIDECAR_UNHEALTHY: "Look at the side container's last lines and its `ready` check.",
    Reason.PROVIDER_UNREACHABLE: "Nothing to do in the job; the provider is tried again.",
    Reason.TEMPLATE_INVALID: "Mend the template; `provisioner check` names the line.",
    Reason.CANCELLED: "Nothing to do.",
    Reason.LIFETIME_EXCEEDED: "Raise `timeouts.build` or `timeouts.lifetime`, or make the build shorter.",
    Reason.INTERNAL_ERROR: "This is a fault of the provisioner; report it with its log.",
}

#: The same where a provider refused for want of room.
NO_ROOM_STEP = "Nothing to do in the job; its agent is started as soon as there is room, there or elsewhere."


class ProvisionerError(Exception):
    """Something that went wrong, in words for a person.

    Args:
        message: what went wrong, for which agent or thing, in one plain sentence.
        reason: the slug told in consoles, metrics and the API.
        retryable: whether the same call may work later with nothing changed.
        tail: last lines of the instance or of the server's answer, if any.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.INTERNAL_ERROR,
        retryable: bool = False,
        tail: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retryable = retryable
        self.tail = tail


class LaunchError(ProvisionerError):
    """A launch that did not work; the reason decides whether the build ends or waits."""

    def again(self, *, retryable: bool | None = None) -> Self:
        """The same error to be raised elsewhere; `retryable`: another answer to that question."""
        made = copy(self).with_traceback(None)
        made.retryable = self.retryable if retryable is None else retryable
        return made


class NoRoom(LaunchError):  # noqa: N818  (a refusal, not a failure)
    """The provider has no room now, by a quota or for want of capacity: the launch waits, and nothing failed.

    Args:
        lacks: what it has no more of, as the same few words for every launch; default: the message.
    """

    def __init__(
        self,
        message: str,
        *,
        lacks: str = "",
        reason: Reason = Reason.CREATE_REJECTED,
        retryable: bool = False,
        tail: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, reason=reason, retryable=retryable, tail=tail)
        self.lacks = lacks or message


class ControllerError(ProvisionerError):
    """A controller's answer that is not the one asked for.

    Args:
        code: the HTTP status, or 0 where there was no answer at all.
    """

    def __init__(self, message: str, *, code: int = 0, retryable: bool = False) -> None:
        super().__init__(message, reason=Reason.INTERNAL_ERROR, retryable=retryable)
        self.code = code


class ConfigError(ProvisionerError):
    """A configuration that cannot be used; the message holds every problem, a line each."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.TEMPLATE_INVALID)


class IllegalActError(Exception):
    """A decision about a node or a loan that the table of its states forbids: a fault of ours, never of the world."""
