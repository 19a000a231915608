"""One controller as lender or borrower: its nodes as they are, and what is done to them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from provisioner.cleanup.nodes import running_builds, time_ms
from provisioner.config import Controller
from provisioner.controller.rest import Rest
from provisioner.controller.rest_nodes import inbound, launch_secret, node_form
from provisioner.loans.causes import AnyCauses, Causes, PlainCauses, stored_mark
from provisioner.loans.marks import MARK, GuestMark, LoanMark, read_guest, read_loan
from provisioner.model.errors import ControllerError

_TREE = (
    "computer[displayName,description,offline,temporarilyOffline,offlineCauseReason,numExecutors,absoluteRemotePath,"
    "assignedLabels[name],executors[currentExecutable[url]],oneOffExecutors[currentExecutable[url]]]"
)
#: In the description of every one-shot node of a provisioner.
_ONE_SHOT = "jenkins-provisioner."
_JAR_S = 60.0
#: For so long a node that is disconnected all the time is taken as not lent.
_TRUST_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceNode:
    """One static node."""

    name: str
    built_in: bool
    one_shot: bool
    connected: bool  # its agent is, whether or not it is in service
    held: bool
    cause: str  # for which it is out of service, or ""
    labels: tuple[str, ...]
    executors: int
    root: str  # "" while it is not connected
    builds: tuple[str, ...]
    loan: LoanMark | None  # it is lent
    loan_text: str  # its cause as it is kept
    guest: GuestMark | None  # it is lent to this controller


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceView:
    """All nodes of one controller, or why they are not known."""

    nodes: Mapping[str, PlaceNode]
    now_s: float | None
    problem: str = ""


class Place:
    """One controller of the configuration."""

    def __init__(self, controller: Controller) -> None:
        self.name = controller.name
        self.agent_url = controller.agent_url or controller.url
        self.http = Rest.of(controller)
        self.script = controller.bridge.value in {"auto", "script"}
        self._unmarked: dict[str, tuple[str, float]] = {}  # disconnected nodes without a mark: session, until when
        self.causes: Causes = AnyCauses(self.http) if self.script else PlainCauses(self.http)

    def look(self, asked: Collection[str] = ()) -> PlaceView:
        """Every node; a controller that does not answer is told as such, never as one without nodes.

        Args:
            asked: nodes of which nothing that was seen earlier is taken for granted.
        """
        try:
            answer = self.http.call("GET", f"computer/api/json?tree={_TREE}", op="loan")
            nodes = [self._node(computer, asked) for computer in self.http.parsed(answer, "computer/")["computer"]]
        except ControllerError as error:
            return PlaceView(nodes={}, now_s=None, problem=error.message)
        now_ms = time_ms(answer)
        return PlaceView(nodes={n.name: n for n in nodes}, now_s=None if now_ms is None else now_ms / 1000)

    def _node(self, computer: Mapping[str, Any], asked: Collection[str]) -> PlaceNode:
        name = str(computer["displayName"])
        description = str(computer.get("description") or "")
        built_in = "MasterComputer" in str(computer.get("_class", ""))
        root = str(computer.get("absoluteRemotePath") or "")
        cause = str(computer.get("offlineCauseReason") or "")
        connected = bool(root) or not computer.get("offline")
        one_shot = _ONE_SHOT in description
        kept = cause if cause.startswith(MARK) else None
        if connected or name in asked:
            self._unmarked.pop(name, None)
        if kept is None and not (connected or built_in or one_shot):
            kept = self._stored(name)
        return PlaceNode(
            name=name,
            built_in=built_in,
            one_shot=one_shot,
            connected=connected,
            held=bool(computer.get("temporarilyOffline")) or kept is not None,
            cause=kept or cause,
            labels=tuple(label["name"] for label in computer.get("assignedLabels") or () if label["name"] != name),
            executors=int(computer.get("numExecutors") or 1),
            root=root,
            builds=tuple(running_builds(computer)),
            loan=read_loan(kept),
            loan_text=kept or "",
            guest=read_guest(description),
        )

    def _stored(self, name: str) -> str | None:
        """What a disconnected node keeps, asked for now and then: only a connected one is ever lent."""
        session, until_s = self._unmarked.get(name, ("", 0.0))
        if session == self.http.session and time.monotonic() < until_s:
            return None
        kept = stored_mark(self.http, name)
        if kept is None:
            self._unmarked[name] = (self.http.session, time.monotonic() + _TRUST_S)
        return kept

    # -- as a borrower

    def register(self, guest: GuestMark, mark: LoanMark, root: str) -> None:
        """Make the node; one of that name that is there with our mark is taken as it is.

        Raises:
            ControllerError: 409 where the name is a stranger's.
        """
        form = node_form(
            mark.name, str(guest), mark.labels, root, launcher=inbound(web_socket=True), executors=mark.executors
        )
        try:
            self.http.call("POST", "computer/doCreateItem", op="loan", form=form, expect=(200, 302))
        except ControllerError as error:
            if error.code != 400 or "already exists" not in error.message:
                raise
            found = self.http.get(f"computer/{quote(mark.name, safe='')}/api/json?tree=description", op="loan")
            if read_guest(found.get("description")) is None:
                raise ControllerError(
                    f"controller {self.name}: a node named {mark.name} exists and is not ours; it is left alone",
                    code=409,
                ) from error

    def secret(self, name: str) -> str:
        """The secret of a node's agent."""
        path = f"computer/{quote(name, safe='')}/jenkins-agent.jnlp"
        return launch_secret(self.http, name, self.http.call("GET", path, op="loan"))

    def agent_jar(self) -> bytes:
        """The controller's own agent.jar."""
        answer = self.http.call("GET", "jnlpJars/agent.jar", op="loan", timeout_s=_JAR_S)
        if not answer.content.startswith(b"PK"):
            raise ControllerError(f"controller {self.name}: jnlpJars/agent.jar is no archive", code=answer.status)
        return answer.content

    def hold(self, name: str, reason: str) -> None:
        """Let a node begin nothing more; gone already is done."""
        path = f"computer/{quote(name, safe='')}/changeOfflineCause"
        self.http.call("POST", path, op="loan", form={"offlineMessage": reason}, expect=(200, 302, 404))

    def remove(self, name: str) -> None:
        """Delete a node that carries a loan's mark; gone already is done."""
        path = f"computer/{quote(name, safe='')}/doDelete"
        self.http.call("POST", path, op="loan", expect=(200, 302, 404))
