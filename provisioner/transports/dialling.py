"""What a transport offers with which the controller dials, not the agent: one contract, one class per transport.

The order of things is the same for all of them. The node is registered, and nobody can connect to it. The instance
is started. The transport `meet`s the instance, again and again, until it can say whom the controller is to dial; only
then the controller is told. When the agent goes, the transport `part`s from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the controller reaches the port on which an instance's command listens."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A running instance whose agent the controller is to dial."""

    agent: str
    owner: str
    secret: str = field(repr=False)  # the node's own; the agent's keys are made of it (`keys.py`)
    template: Mapping[str, object]  # the template's own keys
    provider: str  # its name in the configuration
    backend: str  # its kind
    jar: str  # SHA-256 of its agent.jar, as hexadecimal digits
    ids: Mapping[str, str]  # what the backend's checkpoints said
    root: str  # the agent's root, as the instance sees it
    java: str  # the Java program, as the instance sees it
    address: Callable[[], Awaitable[Address | None]]  # None: it has none yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Whom:
    """Whom the controller dials, and as whom."""

    address: Address
    host_key: str  # `ssh-ed25519 AAAA…`
    user: str
    private_key: str = field(repr=False)
    java: str = "java"
    java_options: tuple[str, ...] = ()
    prefix: str = ""  # before and after the command that starts the agent
    suffix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotYet:
    """It cannot be dialled so far; asked again until the time to connect is over, then told as the problem."""

    text: str
    missing_address: bool = False


class Dialled(Protocol):
    """One transport. Errors are `LaunchError`; each method may be called again at any time, by a later process too."""

    async def meet(self, instance: Instance) -> Whom | NotYet:
        """Whether the instance can be dialled, and then whom to dial. Takes a few seconds at most.

        Raises:
            LaunchError: host_key_mismatch, if something else answers in the instance's place; whatever cannot
                become better by waiting.
        """
        ...

    async def last_words(self, agent: str) -> tuple[str, ...]:
        """The last lines of the agent's standard error, where no provider keeps them; empty if they are not known."""
        ...

    async def part(self, agent: str) -> None:
        """Forget an agent. Unknown is done."""
        ...
