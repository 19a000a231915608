"""Why a node is offline: read and changed so that nothing of anybody else's is lost.

What counts is the cause that the node itself keeps. The one that the controller reports is another while the agent is
not connected ("Connection was broken"), and none at all after a restart until the agent is back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote
from xml.etree import ElementTree as ET

import structlog

from provisioner.cleanup.console import FIND_GUARD, run_script
from provisioner.controller.rest import Rest
from provisioner.loans.marks import MARK
from provisioner.model.errors import ControllerError

log = structlog.get_logger(__name__)

#: Two who write at the same moment by plain REST are both done after this; the one who wrote last has it.
_SETTLE_S = 1.0
_REFUSED = frozenset({401, 403, 404})

_SET = (
    FIND_GUARD
    + """
def computer = jenkins.getComputer(ask.name)
def node = jenkins.getNode(ask.name)
if (computer == null || node == null) return [code: 'gone']
def stored = node.temporaryOfflineCause
def fits = ask.from == null ? stored == null && !computer.temporarilyOffline : stored?.toString()?.endsWith(ask.from)
if (!fits) return [code: 'no']
// the seat of a build that has not begun: it could not, once the node is offline
def seat = ask.from != null || guard == null || !guard.hasProperty('seats') ? null : guard.seats[ask.name]
if (seat != null && !seat.taken) return [code: 'reserved', agent: seat.agent]
def cause = ask.to == null ? null : new hudson.slaves.OfflineCause.UserCause(hudson.model.User.current(), ask.to)
computer.setTemporarilyOffline(cause != null, cause)
return [code: 'done']
"""
)


class Causes(Protocol):
    """Changes the cause of one controller's nodes."""

    def set(self, node: str, before: str | None, after: str | None) -> bool:
        """Compare and set; None stands for a node in service. False: it is not as it was before.

        Raises:
            ControllerError: 404 where there is no such node, 409 where it is reserved for a build.
        """
        ...


class ScriptCauses:
    """Under the controller's own lock; the account needs Administer."""

    def __init__(self, http: Rest) -> None:
        self._http = http

    def set(self, node: str, before: str | None, after: str | None) -> bool:
        """Compare and set."""
        said = run_script(self._http, _SET, {"name": node, "from": before, "to": after})
        if said["code"] == "gone":
            raise ControllerError(f"controller {self._http.name} has no node {node}", code=404)
        if said["code"] == "reserved":
            raise ControllerError(
                f"{node} is reserved for the build of agent {said['agent']}; try again when that has begun", code=409
            )
        return bool(said["code"] == "done")


class PlainCauses:
    """By plain REST: read, compared right before the write, and verified after it."""

    def __init__(self, http: Rest, sleep: Callable[[float], None] = time.sleep) -> None:
        self._http = http
        self._sleep = sleep

    def set(self, node: str, before: str | None, after: str | None) -> bool:
        """Compare and set, but for the time of one request."""
        path = f"computer/{quote(node, safe='')}"
        if not self._fits(node, before):
            return False
        if after is None:
            # toggling is all that REST has for this; where another of us was quicker it takes the node offline again,
            # so it brings the cause along: as it was, the next look undoes it
            self._http.call("POST", f"{path}/toggleOffline", op="loan", form={"offlineMessage": before or ""})
        else:
            # sets, whatever was: two at once cannot take each other's change back, as they could by toggling
            self._http.call("POST", f"{path}/changeOfflineCause", op="loan", form={"offlineMessage": after})
        if before is None or after is None:
            self._sleep(_SETTLE_S)
        return self._fits(node, after)

    def _fits(self, node: str, wanted: str | None) -> bool:
        tree = "tree=temporarilyOffline,offlineCauseReason"
        found = self._http.get(f"computer/{quote(node, safe='')}/api/json?{tree}", op="loan")
        stored = stored_mark(self._http, node)
        if wanted is None:
            return not found["temporarilyOffline"] and stored is None
        return wanted in (stored, found.get("offlineCauseReason"))


class AnyCauses:
    """Under the controller's lock if the account may, else by plain REST."""

    def __init__(self, http: Rest) -> None:
        self._http = http
        self._causes: Causes = ScriptCauses(http)

    def set(self, node: str, before: str | None, after: str | None) -> bool:
        """Compare and set."""
        try:
            return self._causes.set(node, before, after)
        except ControllerError as error:
            if isinstance(self._causes, PlainCauses) or error.code not in _REFUSED or "has no node" in error.message:
                raise
            log.info("loans.plain", controller=self._http.name, problem=error.message, instead="plain REST")
            self._causes = PlainCauses(self._http)
            return self._causes.set(node, before, after)


def stored_mark(http: Rest, node: str) -> str | None:
    """A loan's mark in the cause that the node keeps; None: there is none, or the account may not read it."""
    try:
        xml = http.call("GET", f"computer/{quote(node, safe='')}/config.xml", op="loan").content
    except ControllerError as error:
        if error.code in _REFUSED:
            return None
        raise
    return mark_in(xml)


def mark_in(config_xml: bytes) -> str | None:
    """The mark in a node's `config.xml`."""
    try:
        # this parser knows XML 1.0 only
        root = ET.fromstring(re.sub(rb"^<\?xml[^>]*\?>", b"", config_xml))  # noqa: S314  (the controller's own)
    except ET.ParseError:
        return None
    cause = root.find("temporaryOfflineCause")
    for text in cause.itertext() if cause is not None else ():
        _, found, rest = text.partition(MARK)
        if found:
            return found + rest
    return None
