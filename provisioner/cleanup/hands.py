"""Which way to the nodes is taken."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from provisioner.cleanup.console import ScriptHands
from provisioner.cleanup.nodes import Guard, Hands, PlainHands
from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError

log = structlog.get_logger(__name__)


class ChosenHands:
    """The script console for as long as the account may use it, plain REST from then on.

    Args:
        http: the controller.
        job: full name of the cleanup job.
        script: whether the script console may be used.
    """

    def __init__(self, http: Rest, job: str, *, script: bool) -> None:
        self._http = http
        self.now: Hands = ScriptHands(http, job) if script else PlainHands(http)

    @property
    def atomic(self) -> bool:
        """Whether changes are made inside the controller."""
        return isinstance(self.now, ScriptHands)

    def idle_since_ms(self, names: Sequence[str], guard: Guard | None) -> dict[str, int]:
        """As `Hands.idle_since_ms`; it is the first thing that is asked for, and so tells which way there is."""
        if not names:
            return {}
        try:
            return dict(self.now.idle_since_ms(names, guard))
        except ControllerError as error:
            if error.code not in {401, 403, 404}:
                raise
            log.info("cleanup.plain", problem=error.message, instead="plain REST; a build between two looks is missed")
            self.now = PlainHands(self._http)
            return {}
