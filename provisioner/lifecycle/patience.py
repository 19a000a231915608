"""No silent wait: what a build waits for stands in its own log, once for each new reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog

from provisioner.model.errors import ControllerError
from provisioner.model.queue import QueueItem, RequestKey
from provisioner.model.request import RequestState

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import Desk
    from provisioner.lifecycle.outlook import Outlook

log = structlog.get_logger()

#: A wait that is shorter is nobody's worry.
TOLD_AFTER_S = 15.0
_LOOK_EVERY_S = 3.0
#: In one look, oldest first: a queue of ten thousand must not keep the controller busy with our words.
_MOST_AT_ONCE = 100
_NUMBER = re.compile(r"[0-9][0-9:.]*")


class Patience:
    """Tells waiting builds what they wait for."""

    def __init__(self, desk: Desk, outlook: Outlook) -> None:
        self._desk = desk
        self._outlook = outlook
        self._told: dict[RequestKey, str] = {}  # the reasons without their numbers, which change all the time

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._desk.tick("patience")
            await self._desk.clock.sleep(_LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """One pass over everything that has waited for a while."""
        desk, now = self._desk, self._desk.clock.now()
        long = [
            request
            for request in desk.book
            if request.state is RequestState.WAITING
            and (now - request.first_seen).total_seconds() >= TOLD_AFTER_S
            and desk.controllers[request.item.key.controller].up
        ]
        told, gists = 0, dict[str, str]()
        for waiting in self._outlook.reasons(long):
            item, why = waiting.request.item, waiting.text
            gist = gists.get(why) or gists.setdefault(why, _NUMBER.sub("#", why))
            if self._told.get(item.key) == gist:
                continue
            waited_s = (now - waiting.request.first_seen).total_seconds()
            again = "It still waits" if item.key in self._told else f"It has waited for {waited_s:.0f} s"
            self._told[item.key] = gist
            desk.errand(self._tell(item, f"{again}: {why}"), name=f"patience {item.key}")
            told += 1
            if told >= _MOST_AT_ONCE:
                break
        for key in [key for key in self._told if desk.book.get(key) is None]:
            del self._told[key]

    async def _tell(self, item: QueueItem, line: str) -> None:
        try:
            await self._desk.controllers[item.key.controller].port.tell(None, item, [line])
        except ControllerError as error:
            self._told.pop(item.key, None)
            log.info("log.untold", request=str(item.key), problem=error.message)
