"""What every backend offers: the executor contract.

A backend knows instances, images and hosts. It knows nothing of Jenkins, of the store or of other
agents. Every method may be called again after a crash in the middle of it: it must then finish
the work or find it done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from provisioner.transports.dialling import Address

#: The two keys under which every instance carries our mark.
OWNER_KEY = "jenkins-provisioner.owner"
AGENT_KEY = "jenkins-provisioner.agent"
#: On what is shared between agents and outlives them on purpose (agent.jar, named caches); never an owner's.
CACHE_KEY = "jenkins-provisioner.cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretFile:
    """A file that the instance gets in its secret volume, never through argument or environment."""

    name: str  # file name inside the secret folder
    content: bytes = field(repr=False)
    at: str | None = None  # where the instance finds it besides, by a link
    env: str | None = None  # variable that is set to its path
    public: bool = False  # nothing to hide: every user of the instance may read it
    of_server: bool = False  # belongs to whom the command runs as, though the agent may be another's (`work_as`)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """All that a backend needs to start one instance.

    `command` uses the place holders `{java}`, `{jar}`, `{secrets}` and `{work}`, which the backend
    replaces with the paths as the instance sees them; `{sshd}`, for the SSH server that it brings, and `{port}`,
    for a port of its choice on which the command listens, where `listens` says so.
    """

    agent: str
    owner: str
    image: str | None
    command: tuple[str, ...]
    remote_fs: str
    listens: bool = False  # the controller must reach `{port}`; `address` tells where
    files: tuple[SecretFile, ...] = ()
    agent_jar: bytes = field(default=b"", repr=False)  # the controller's own agent.jar
    jars_at: str = ""  # the folder where the agent keeps jars that it fetches, each named by its checksum
    jars_of: str = ""  # whose they are: agents with the same word fetch the same
    java: str = "image"  # image | injected: the backend brings a Java of its own
    run_as: str | None = None
    work_as: str | None = None  # the agent's user, where the command starts it as another than itself
    env: Mapping[str, str] = field(default_factory=dict)
    pull: str = "missing"  # missing | always | never
    pull_timeout_s: float = 1800.0
    channel: bool = False  # the command speaks through its standard input and output: see `Backend.open_channel`
    workspace_of: str = ""  # whose workspace it is, where the template keeps one for each job
    template: Mapping[str, object] = field(default_factory=dict)  # resources, volumes, dns …: the template's own keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An external id that must be saved before the next step is taken."""

    key: str  # container, volume, pid …
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A line for the launch log."""

    text: str


class InstanceState(StrEnum):
    """What `status` found."""

    MISSING = "missing"  # nothing there
    CREATED = "created"  # made and never started; a start was cut short
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The state of one instance, with the reason of its end where there is one."""

    state: InstanceState
    exit_code: int | None = None
    out_of_memory: bool = False
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One thing that carries our mark."""

    kind: str  # container, volume, network, process …
    id: str
    agent: str
    age_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Everything at the provider that carries the owner's mark.

    Nothing is ever deleted on the word of a listing that is not complete.
    """

    found: tuple[Found, ...]
    complete: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """What one instance uses now; None where the backend cannot tell."""

    cpu_s: float | None = None  # processor time used so far, seconds
    memory_bytes: int | None = None
    pids: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """An instance of ours ended, seen by the provider's own event stream."""

    agent: str


class Channel(Protocol):
    """Standard input and output of an instance's command, for its whole life.

    Neither direction holds more than a bounded number of bytes: who does not read makes the command wait, and
    `write` waits for the command.
    """

    async def read(self) -> bytes:
        """What the command wrote; waits for it. Empty: the command ended, or closed its output."""
        ...

    async def write(self, data: bytes) -> None:
        """Give the command something to read. Raises ConnectionError if it ended."""
        ...

    def said(self) -> tuple[str, ...]:
        """The first lines of its standard error."""
        ...

    def last_words(self) -> tuple[str, ...]:
        """The last lines of its standard error."""
        ...

    async def close(self, grace_s: float = 5.0) -> None:
        """End the command's input; a command that does not end by itself within the grace is killed. Idempotent."""
        ...


class Backend(Protocol):
    """One provider. Errors are `LaunchError` with the reason slug that the console will show."""

    async def open(self) -> None:
        """Connect. Raises LaunchError(provider_unreachable) if the provider does not answer."""
        ...

    async def close(self) -> None:
        """Let go of threads and connections; instances live on."""
        ...

    async def ping(self) -> str:
        """The provider's name and version in a few words; raises as `open` does."""
        ...

    async def verify(self, order: Order) -> tuple[str, ...]:
        """What would keep this order from starting, a sentence each; empty if nothing is known to. Changes nothing."""
        ...

    def remote_root(self, owner: str, agent: str, remote_fs: str) -> str:
        """The agent's root as its node must name it; `remote_fs` itself, unless instances share a file system."""
        ...

    def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        """Start the instance; the iterator ends when it runs.

        Every id is yielded as it arrives, and is on disk before the iterator is asked to go on. A name that
        exists already is what an earlier call left: it is finished or replaced, never an error. After an error
        the caller calls `stop`.
        """
        ...

    async def open_channel(self, agent: str, ids: Mapping[str, str]) -> Channel:
        """The channel of an order with `channel`; its command, which `start` left waiting, begins now.

        Another process than the one that started it may do this, and whoever does holds the command's input: when
        that process dies, the input ends, and so does the command. It can be opened once in an instance's life.

        Raises:
            LaunchError: agent_lost, if it was opened before; create_rejected, if the command cannot begin;
                template_invalid, if the backend has no channels.
        """
        ...

    def java(self, source: str) -> str:
        """The Java program of a template with this `java`, as the instance sees it."""
        ...

    async def address(self, agent: str, ids: Mapping[str, str]) -> Address | None:
        """Where the controller reaches the port on which an instance listens; None: it has no address (yet).

        Raises:
            LaunchError: the provider does not answer; no_address, if it will never have one.
        """
        ...

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        """Remove the instance and all that belongs to it. Done when it returns; gone already is done.

        A `start` of the same agent still under way in a thread must not bring anything back: stop wins. A later
        `start` of that name by the same object raises LaunchError(cancelled), since names are never used twice.
        """
        ...

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:
        """What the instance does now."""
        ...

    async def stats(self, agent: str, ids: Mapping[str, str]) -> Stats:
        """What the instance uses now; all None if it is not running."""
        ...

    async def log_tail(self, agent: str, ids: Mapping[str, str], lines: int = 20) -> tuple[str, ...]:
        """Its last lines of output, newest last; empty if there are none or it is gone."""
        ...

    async def listing(self, owner: str) -> Listing:
        """Everything with the owner's mark, running or not, and leftovers such as volumes."""
        ...

    async def remove_found(self, found: Found) -> None:
        """Remove one leftover that `listing` showed. Gone already is done."""
        ...

    def events(self) -> AsyncIterator[Ended]:
        """Ends of our instances as they happen; ends with LaunchError when the stream breaks, to be asked for again."""
        ...
