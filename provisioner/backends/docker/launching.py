"""The blocking steps of a start: make the container, fill its volume, start it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from provisioner.backends.contract import AGENT_KEY, OWNER_KEY, Order
from provisioner.backends.docker.addressing import Addressing
from provisioner.backends.docker.class_data import ClassData, Jvm
from provisioner.backends.docker.container import JAVA_AT, body, marks
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.backends.docker.faults import start_error
from provisioner.backends.docker.fetched import FetchedJars
from provisioner.backends.docker.filling import Filling
from provisioner.backends.docker.images import Images
from provisioner.backends.docker.jar import ensure_jar
from provisioner.backends.docker.jar_volumes import JarVolumes
from provisioner.backends.docker.preparing import Preparing
from provisioner.backends.docker.removal import remove_agent, remove_container
from provisioner.backends.docker.runtime import TOOLS_AT, Runtime
from provisioner.backends.docker.shared import SharedVolumes, mount
from provisioner.backends.docker.ssh_server import SshServer
from provisioner.backends.docker.workspaces import Workspaces
from provisioner.model.errors import LaunchError, Reason

_ZIP = b"PK"
_ENGINE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where an image says none
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A container; `running` if an earlier start had come that far."""

    id: str
    running: bool
    copies: bool = False  # jars, before its Java starts
    jars: Mapping[str, bytes] = field(default_factory=dict)  # to be put in


class Launching:
    """Makes and starts containers on one engine.

    Args:
        engine: where.
        images: what is known of its images.
        fetched: jars that earlier agents fetched.
        check: raises if the agent was stopped; asked after each change, so that a stop always wins.
        java: the Java program in the images.
        network: what containers join.
        runtime: what runs them.
        addressing: the ports on which they listen.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        images: Images,
        fetched: FetchedJars,
        check: Callable[[str], None],
        java: str,
        network: str | None,
        runtime: str | None,
        addressing: Addressing,
    ) -> None:
        self._addressing = addressing
        self._engine = engine
        self._images = images
        self._fetched = fetched
        self._check = check
        self._java = java
        self._network = network
        self._runtime = runtime
        self._volumes = SharedVolumes(engine)
        self._injected = Runtime()
        self._ssh_server = SshServer()
        self.preparing = Preparing()
        self._class_data = ClassData(self._volumes, self.preparing)
        self._jars = JarVolumes(self._volumes, self.preparing)
        self._filling = Filling(engine=engine, images=images)
        self._workspaces = Workspaces(engine)

    def close(self, timeout_s: float) -> None:
        """End what is prepared in the background; blocks up to about this long."""
        self.preparing.close()
        self._volumes.let_go(timeout_s)

    def make(self, order: Order) -> Made:
        """Make the container, or find the running one of an earlier start.

        Raises:
            LaunchError: with the reason; nothing of this call is left then if the agent was stopped.
        """
        if not set(order.agent) <= _PLAIN:
            raise LaunchError(f"`{order.agent}` cannot be a container's name", reason=Reason.TEMPLATE_INVALID)
        try:
            made = self._create(order)
        except RefusedError as refused:
            if refused.code == 404 and order.image:
                self._images.forget(order.image)
            raise start_error(refused, order.agent) from refused
        self._yield_to_stop(order.agent, made.id)
        return made

    def _create(self, order: Order) -> Made:
        asked, java, shared = self._prepared(order)
        jars = self._fetched.given(order)
        copying = self._jars.use(order, jars)
        with self._workspaces.taken(order) as workspace:
            wanted = body(
                asked,
                java=java,
                network=self._network,
                runtime=self._runtime,
                shared=[*shared, copying.mount] if copying else shared,
                before=copying.words if copying else (),
                workspace=workspace,
                port=self._addressing.port() if order.listens else None,
            )
            made = self._make(order, wanted)
        # to an engine elsewhere they would take as long as to the agent from its controller
        to_put = not copying and self._engine.endpoint.startswith("unix://")
        return replace(made, copies=copying is not None, jars=jars if to_put else {})

    def _make(self, order: Order, wanted: Mapping[str, object]) -> Made:
        for attempt in (1, 2, 3):
            try:
                made = self._engine.call("POST", "/containers/create", query={"name": order.agent}, body=wanted).json()
            except RefusedError as refused:
                if refused.code != 409 or attempt == 3:
                    raise
                if (running := self._clear_name(order)) is not None:
                    return Made(id=running, running=True)
            else:
                return Made(id=str(made["Id"]) if isinstance(made, Mapping) else "", running=False)
        raise AssertionError("the third attempt raises or returns")

    def _prepared(self, order: Order) -> tuple[Order, list[str], list[dict[str, object]]]:
        """The order as it is met, the Java program with its first options, what the container shares with others."""
        volumes = [ensure_jar(self._volumes, order)] if order.agent_jar else []
        server = [self._ssh_server.ensure(self._volumes, order)] if "{sshd}" in order.command else []
        java, known = self._java, self._images.known(order.image or "")
        of = known.id if known else None
        if order.java == "injected":
            own = self._injected.ensure(self._volumes, order)
            volumes.append(own)
            java, of = f"{JAVA_AT}/bin/java", own.name
            path = order.env.get("PATH") or (known.path if known else "") or _ENGINE_PATH
            order = replace(order, env={**order.env, "PATH": f"{path}:{TOOLS_AT}"})
        mounts = [mount(volume) for volume in (*volumes, *server)]
        if not order.agent_jar.startswith(_ZIP) or not of:
            return order, [java], mounts
        options, more = self._class_data.use(
            order, Jvm(of=of, image=order.image or "", java=java, mounts=tuple(volumes))
        )
        return order, [java, *options], [*mounts, *more]

    def _clear_name(self, order: Order) -> str | None:
        """Deal with the container that has the name: give the id if it runs, else remove it."""
        try:
            found = self._engine.call("GET", f"/containers/{name(order.agent)}/json").json()
        except RefusedError as refused:
            if refused.code == 404:
                return None  # it went meanwhile
            raise
        if not isinstance(found, Mapping):
            return None
        labels = found["Config"]["Labels"] or {}
        if labels.get(OWNER_KEY) != order.owner or labels.get(AGENT_KEY) != order.agent:
            raise LaunchError(
                f"the name {order.agent} belongs to a container that is not ours; it is left alone",
                reason=Reason.CREATE_REJECTED,
            )
        if found["State"]["Running"]:
            return str(found["Id"])
        remove_container(self._engine, str(found["Id"]))
        return None

    def start(self, order: Order, made: Made) -> None:
        """Fill the secret volume, make the work folder, start, unless its channel is to be opened first.

        Raises:
            LaunchError: with the reason.
        """
        try:
            folders = [order.jars_at] if made.copies else []
            self._filling.fill(order, made.id, marks(order.owner, order.agent), jars=made.jars, folders=folders)
            self._check(order.agent)
            if not order.channel:
                self._engine.call("POST", f"/containers/{made.id}/start")
        except RefusedError as refused:
            self._check(order.agent)  # a stop may have removed it under our hands: that is no fault
            if made.copies:
                self._jars.doubt()
            raise start_error(refused, order.agent) from refused
        self._yield_to_stop(order.agent, made.id)

    def _yield_to_stop(self, agent: str, container: str) -> None:
        try:
            self._check(agent)
        except LaunchError:
            remove_agent(self._engine, agent, {"container": container})
            raise
