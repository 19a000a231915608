"""An agent that is there while its build waits: how long Jenkins may take to start the build on it, and what is told.

Jenkins may hold an item for good reasons (a shutdown in preparation, a throttle, a lock): then its agent stays and the
wait is told. An item that nothing holds, and that does not start, waits for another agent: the node lost its labels or
was closed, or somebody's dispatcher refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.controller.port import BridgeMode
from provisioner.lifecycle.telling import tell
from provisioner.model.request import Request

if TYPE_CHECKING:
    from provisioner.lifecycle.agent_task import AgentTask
    from provisioner.lifecycle.desk import Desk

#: So long a build may take to start on its agent before the wait is told.
_TOLD_AFTER_S = 60.0
#: So long an agent may be online before it is replaced, although its build waits and nothing holds it.
_REPLACED_AFTER_S = 300.0
#: How often that time is doubled for one build at most: what refuses the agents may refuse the next one as well.
_MOST_DOUBLINGS = 4


class Untaken:
    """One agent's wait for its build, from the moment it is online or given to it."""

    def __init__(self, desk: Desk, task: AgentTask) -> None:
        self._desk = desk
        self._task = task
        self._there_since = self._free_since = task.clock.monotonic()
        self._told = False

    def look(self) -> str:
        """Why the agent is to be replaced; empty: it stays."""
        task, now = self._task, self._task.clock.monotonic()
        request = self._desk.book.get(task.agent.request)
        if request is None or not task.facts.online:
            self._there_since = self._free_since = now
            return ""
        if now - self._there_since > _TOLD_AFTER_S and not self._told:
            self._told = True
            waited_s = now - self._there_since
            task.log.say(
                f"The agent is connected, and Jenkins has not started the build on it for {waited_s:.0f} s"
                + self._says(request)
            )
            tell(self._desk, task)
        if self._held(request):
            self._free_since = now
            return ""
        key = request.item.key
        patience_s = _REPLACED_AFTER_S * 2 ** min(self._desk.book.untaken(key), _MOST_DOUBLINGS)
        if now - self._free_since <= patience_s:
            return ""
        self._desk.book.count_untaken(key)
        if not self._bridged:
            return "no build started on it: without the bridge a node that was made with it matches nothing"
        return f"no build started on it within {patience_s:.0f} s{self._says(request)}"

    def _held(self, request: Request) -> bool:
        """Whether Jenkins holds the build, so that another agent would wait as long."""
        controller = self._desk.controllers[self._task.agent.controller]
        blocked = self._bridged and request.item.buildable_ms is None  # the bridge shows such an item too
        return blocked or controller.quieting_down or not controller.up

    @property
    def _bridged(self) -> bool:
        info = self._desk.controllers[self._task.agent.controller].port.info
        return info is not None and info.mode is not BridgeMode.OFF

    @staticmethod
    def _says(request: Request) -> str:
        return f" (Jenkins says: {request.item.why})" if request.item.why else ""
