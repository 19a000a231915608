"""What the rest of the program knows of a controller: one protocol, two ways behind it (bridge, REST)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from provisioner.model.queue import NodeView, QueueItem, RequestKey


class BridgeMode(StrEnum):
    """How the bridge came into the controller."""

    INIT = "init"  # an administrator's file in init.groovy.d
    SCRIPT = "script"  # put in by us through the script console
    OFF = "off"  # plain REST


@dataclass(frozen=True, kw_only=True, slots=True)
class ControllerInfo:
    """Who answered."""

    name: str
    version: str
    session: str  # changes with every start of the controller
    mode: BridgeMode
    user: str
    quieting_down: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The whole truth of one moment: every buildable item, and every node with our owner's mark.

    Where `complete` is false (an answer was cut short or refused) nothing may be concluded from absence.
    """

    info: ControllerInfo
    items: tuple[QueueItem, ...]
    nodes: tuple[NodeView, ...]
    complete: bool = True
    unseen: str = ""  # where it is not complete: what is missing, and why
    rival: str = ""  # another provisioner of our owner id is at work here: nothing may be started or swept


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemBuildable:
    """An item waits for a node."""

    item: QueueItem


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemLeft:
    """An item is no longer in the queue."""

    queue_id: int
    since_ms: int
    cancelled: bool
    node: str | None = None  # the node that took it, "" for the built-in node, None where unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOnline:
    """An agent of ours connected and may take its build."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOffline:
    """An agent of ours lost its connection, or was taken offline."""

    name: str
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildStarted:
    """A node of ours took a task."""

    name: str
    queue_id: int | None
    build_url: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildFinished:
    """A node of ours is done with its task; for a Pipeline: with its `node` body."""

    name: str
    queue_id: int | None
    failed: bool = False
    lost: bool = False  # the agent's connection had broken by then


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreachable:
    """The controller did not answer as a controller; the watch goes on trying."""

    message: str


Observation = (
    Snapshot | ItemBuildable | ItemLeft | NodeOnline | NodeOffline | BuildStarted | BuildFinished | Unreachable
)


class Launcher(StrEnum):
    """Who dials whom."""

    WEBSOCKET = "websocket"  # the agent dials the controller's URL
    TCP = "tcp"  # the agent dials the controller's agent port
    SSH = "ssh"  # the controller dials, once `dial` has said whom; until then nobody does


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOrder:
    """The node to register. `request` is the one item it may take; None takes nothing yet (standby)."""

    name: str
    owner: str
    labels: tuple[str, ...]
    remote_fs: str
    request: QueueItem | None
    launcher: Launcher = Launcher.WEBSOCKET
    lines: tuple[str, ...] = ()  # first lines of the launch log
    started: bool = False  # it has taken its build already (a bridge put back after a controller restart)
    provider: str = ""  # where its instance is


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """A registered node."""

    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dial:
    """Whom the controller dials for an agent, and as whom: what Jenkins' plugin SSH Build Agents is told."""

    host: str
    port: int
    host_key: str  # `ssh-ed25519 AAAA…`; no other is accepted
    user: str
    private_key: str = field(repr=False)  # in OpenSSH's form; goes into a credentials entry of the agent's own
    java: str = "java"
    java_options: tuple[str, ...] = ()
    prefix: str = ""  # before and after the command that starts the agent
    suffix: str = ""
    timeout_s: float = 60.0  # for one try to connect
    retries: int = 3  # further tries, a second apart


def credentials_id(owner: str, name: str) -> str:
    """The id of an agent's entry among the controller's credentials; its description is the mark of a node."""
    return f"jenkins-provisioner.{owner}.{name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentPort:
    """A controller's TCP port for agents, as it announces it."""

    host: str
    port: int | None  # None: it is disabled
    problem: str = ""  # why it does not answer us; agents may see it all the same


class Fate(StrEnum):
    """What became of a queue item that is no longer in the queue."""

    WAITING = "waiting"  # it is still there
    CANCELLED = "cancelled"
    STARTED = "started"
    UNKNOWN = "unknown"  # so long ago that the controller forgot it, or another session's


@dataclass(frozen=True, kw_only=True, slots=True)
class FateOf:
    """A fate, with the build if there is one."""

    fate: Fate
    build_url: str | None = None
    building: bool | None = None
    node: str | None = None


class FailOutcome(StrEnum):
    """How a request was ended."""

    NOT_BUILT = "not_built"  # a build record with that result
    STEP_FAILED = "step_failed"  # the Pipeline's `node` step failed with the message
    CANCELLED = "cancelled"  # all that REST can do
    GONE = "gone"  # it was no longer in the queue
    SPARED = "spared"  # another node or cloud could still serve it; nothing was done


class Controller(Protocol):
    """One controller. Every call has a time-out of its own and raises `ControllerError`."""

    @property
    def info(self) -> ControllerInfo | None:
        """The last known state; None before the first contact."""
        ...

    async def open(self) -> ControllerInfo:
        """First contact; puts the bridge in where that is wanted and possible."""
        ...

    async def close(self) -> None:
        """Let go of threads and connections. The bridge stays, for the agents that still run."""
        ...

    def watch(self) -> AsyncIterator[Observation]:
        """Everything that happens, for ever: a Snapshot first and after every gap, then single events as they come.

        Outages come as `Unreachable`, never as an exception; the bridge is put back when the session changes.
        """
        ...

    async def snapshot(self) -> Snapshot:
        """The whole truth now."""
        ...

    async def register(self, order: NodeOrder) -> Registration:
        """Create the node, or find it there with our mark: idempotent. Name taken by a stranger: code 409."""
        ...

    async def adopt(self, order: NodeOrder) -> bool:
        """Tell a new session or a new sidecar's bridge about a node that exists; False if there is none."""
        ...

    async def dial(self, order: NodeOrder, dial: Dial) -> None:
        """Have the controller dial an agent: its credentials entry, then its launcher. Idempotent, also half done.

        A node that is dialled already is left as it is.

        Raises:
            ControllerError: code 412 where the plugin is missing, 403 where a permission is.
        """
        ...

    async def remove(self, name: str, lines: Sequence[str] = (), *, credentials: bool = False) -> None:
        """Delete the node, and with `credentials` then its entry; gone already is done.

        `lines` end the console, where the mode can do that.
        """
        ...

    async def credentials(self) -> tuple[str, ...]:
        """Names of the agents that have a credentials entry with our mark; none where we may not see them."""
        ...

    async def remove_credentials(self, name: str) -> None:
        """Delete the credentials entry of an agent; gone already is done."""
        ...

    async def launch_tail(self, name: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines of what the controller says about its connection to a node; empty if there is none."""
        ...

    async def tell(self, name: str | None, request: QueueItem | None, lines: Sequence[str]) -> None:
        """Add lines to the launch log as the build shows it."""
        ...

    async def bar(self, name: str) -> None:
        """Let the node take no further build; a running one goes on. Idempotent."""
        ...

    async def let_return(self, name: str) -> None:
        """The Pipeline that has run on this node, and that a restart interrupted, waits for it by name: let it in.

        Idempotent; nothing is to be done where the controller's extension does so by itself.
        """
        ...

    async def fail(self, request: QueueItem, reason: str, message: str, lines: Sequence[str]) -> FailOutcome:
        """End the request with the reason in its console. Idempotent."""
        ...

    async def give(self, name: str, request: QueueItem) -> None:
        """Dedicate a standby node, registered for no item, to one. Only with the bridge.

        Raises:
            ControllerError: the node is gone, or there is no bridge; the item is as it was.
        """
        ...

    async def others(self, request: QueueItem) -> bool:
        """Whether a node that is not ours, online or not, or a cloud could serve the item; False without the bridge."""
        ...

    async def fate(self, key: RequestKey) -> FateOf:
        """What became of an item."""
        ...

    async def outcome(self, build_url: str) -> str | None:
        """The result of a build, such as SUCCESS or FAILURE; None while it has none, or is not there."""
        ...

    async def agent_port(self, agent_url: str) -> AgentPort:
        """The TCP port for agents; looked at anew after a minute."""
        ...

    async def agent_jar(self) -> bytes:
        """The controller's own agent.jar; cached for the session."""
        ...

    def requests_made(self) -> Mapping[tuple[str, str], int]:
        """Requests by (operation, status code), for the metrics."""
        ...
