"""The circuit breakers of one sidecar, kept over its restarts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from provisioner.capacity.breaker import CLOSED, NOT_COUNTED, Breaker
from provisioner.capacity.plant import Condition
from provisioner.lifecycle.clock import Clock
from provisioner.model.agent import Agent
from provisioner.model.errors import NoRoom, ProvisionerError
from provisioner.records.store import Store

log = structlog.get_logger()

_STORED = "breakers"

#: (provider, template)
Pair = tuple[str, str]


class Breakers:
    """One breaker for each provider and template that failed together; every other pair's is closed.

    A breaker belongs to one version of its template: an edited one starts with a closed breaker.
    """

    def __init__(self, store: Store, clock: Clock, versions: Mapping[str, str]) -> None:
        self._store = store
        self._clock = clock
        self._versions = versions
        self._of: dict[Pair, Breaker] = {}
        self._load()

    def failed(self, agent: Agent, error: ProvisionerError) -> None:
        """A launch failed."""
        if isinstance(error, NoRoom) or error.reason in NOT_COUNTED or agent.template not in self._versions:
            return
        pair, now = (agent.provider, agent.template), self._clock.now()
        before = self._of.get(pair, CLOSED)
        after = self._of[pair] = before.failed(f"{error.message} ({error.reason.value})", now)
        if after.open_until != before.open_until:
            log.warning(
                "breaker.opened",
                provider=agent.provider,
                template=agent.template,
                for_s=after.pause_s,
                problem=after.detail,
            )
        self._save()

    def worked(self, agent: Agent) -> None:
        """An agent connected: whatever failed before is over. Idempotent."""
        before = self._of.pop((agent.provider, agent.template), None)
        if before is not None:
            self._save()
            if before.open_until is not None:
                log.info("breaker.closed", provider=agent.provider, template=agent.template)

    def forget(self, provider: str) -> None:
        """An operator says that the provider works again. Idempotent."""
        self._keep(lambda pair: pair[0] != provider)

    def reconfigure(self, versions: Mapping[str, str]) -> None:
        """A new configuration; breakers of templates that changed are closed."""
        before, self._versions = self._versions, versions
        self._keep(lambda pair: before.get(pair[1]) == versions.get(pair[1]))

    def conditions(self) -> dict[Pair, Condition]:
        """What placement must know: every pair whose breaker is not closed."""
        now = self._clock.now()
        found = ((pair, breaker.condition(now)) for pair, breaker in self._of.items())
        return {pair: condition for pair, condition in found if condition is not None}

    def _keep(self, wanted: Callable[[Pair], bool]) -> None:
        left = {pair: breaker for pair, breaker in self._of.items() if wanted(pair)}
        if len(left) < len(self._of):
            self._of = left
            self._save()

    def _save(self) -> None:
        rows = [
            {
                "provider": provider,
                "template": template,
                "version": self._versions[template],
                "failures": breaker.failures,
                "detail": breaker.detail,
                "pause_s": breaker.pause_s,
                "open_until": breaker.open_until.isoformat() if breaker.open_until else None,
            }
            for (provider, template), breaker in self._of.items()
        ]
        self._store.set_meta(_STORED, json.dumps(rows, separators=(",", ":")))

    def _load(self) -> None:
        for row in json.loads(self._store.meta(_STORED) or "[]"):
            if self._versions.get(row["template"]) != row["version"]:
                continue
            self._of[(row["provider"], row["template"])] = Breaker(
                failures=row["failures"],
                detail=row["detail"],
                pause_s=row["pause_s"],
                open_until=datetime.fromisoformat(row["open_until"]) if row["open_until"] else None,
            )
