"""The circuit breakers of one sidecar, kept over its restarts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

import structlog

from provisioner.capacity.breaker import CLOSED, NOT_COUNTED, Breaker
from provisioner.capacity.plant import Condition
from provisioner.lifecycle.clock import Clock
from provisioner.model.agent import Agent
from provisioner.model.errors import NoRoom, ProvisionerError
from provisioner.records.store import Store, StoreError

log = structlog.get_logger()

_STORED = "breakers"
_STORED_VERSIONS = "template_versions"

#: (provider, template)
Pair = tuple[str, str]


class Breakers:
    """One breaker for each provider and template that failed together; every other pair's is closed.

    A breaker belongs to one version of its template: an edited one starts with a closed breaker, and what becomes of
    agents that were planned before says nothing about it.
    """

    def __init__(self, store: Store, clock: Clock, versions: Mapping[str, str]) -> None:
        self._store = store
        self._clock = clock
        self._versions: dict[str, str] = {}
        self._since: dict[str, datetime] = {}  # when each template's version came into force
        self._of: dict[Pair, Breaker] = {}
        self._load()
        self.reconfigure(versions)

    def failed(self, agent: Agent, error: ProvisionerError) -> None:
        """A launch failed."""
        if isinstance(error, NoRoom) or error.reason in NOT_COUNTED or not self._is_of_now(agent):
            return
        pair, now = (agent.provider, agent.template), self._clock.now()
        before = self._of.get(pair, CLOSED)
        after = before.failed(f"{error.message} ({error.reason.value})", now)
        self._put({**self._of, pair: after})
        if after.open_until != before.open_until:
            self._store.once_written(partial(self._opened, agent, after))

    @staticmethod
    def _opened(agent: Agent, breaker: Breaker) -> None:
        log.warning(
            "breaker.opened",
            provider=agent.provider,
            template=agent.template,
            for_s=breaker.pause_s,
            problem=breaker.detail,
        )

    def worked(self, agent: Agent) -> None:
        """An agent connected: whatever failed before is over. Idempotent."""
        pair = (agent.provider, agent.template)
        before = self._of.get(pair)
        if before is None or not self._is_of_now(agent):
            return
        self._put({other: breaker for other, breaker in self._of.items() if other != pair})
        if before.open_until is not None:
            log.info("breaker.closed", provider=agent.provider, template=agent.template)

    def forget(self, provider: str) -> None:
        """An operator says that the provider works again. Idempotent."""
        left = {pair: breaker for pair, breaker in self._of.items() if pair[0] != provider}
        if len(left) < len(self._of):
            self._put(left)

    def reconfigure(self, versions: Mapping[str, str]) -> None:
        """The configuration in force; breakers of templates that changed are closed."""
        before, now = self._versions, self._clock.now()
        if before == versions:
            return
        # what an earlier release left tells no versions: then its agents are taken for those of now
        first = now if before else datetime.min.replace(tzinfo=UTC)
        same = {name for name, version in versions.items() if before.get(name) == version}
        self._since = {name: self._since[name] if name in same else first for name in versions}
        self._versions = dict(versions)
        left = {pair: breaker for pair, breaker in self._of.items() if pair[1] in same}
        try:
            with self._store.together():
                self._store.set_meta(_STORED_VERSIONS, self._dumped_versions())
                self._put(left)
        except StoreError as error:
            # the next start finds other versions than it knows, and comes to the same
            log.warning("breakers.not_stored", problem=error.message)
            self._of = left

    def conditions(self) -> dict[Pair, Condition]:
        """What placement must know: every pair whose breaker is not closed."""
        now = self._clock.now()
        found = ((pair, breaker.condition(now)) for pair, breaker in self._of.items())
        return {pair: condition for pair, condition in found if condition is not None}

    def _is_of_now(self, agent: Agent) -> bool:
        """Whether it was planned by the present version of its template."""
        since = self._since.get(agent.template)
        if since is None:
            return False
        # a version of the future comes of a wall clock that was set back
        return agent.created_at >= since or since > self._clock.now()

    def _put(self, breakers: dict[Pair, Breaker]) -> None:
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
            for (provider, template), breaker in breakers.items()
        ]
        self._store.set_meta(_STORED, json.dumps(rows, separators=(",", ":")))
        self._store.if_undone(partial(setattr, self, "_of", self._of))
        self._of = breakers

    def _dumped_versions(self) -> str:
        rows = {name: [version, self._since[name].isoformat()] for name, version in self._versions.items()}
        return json.dumps(rows, separators=(",", ":"))

    def _load(self) -> None:
        try:
            self._load_stored()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # another release wrote it: then they begin anew
            log.warning("breakers.not_read", problem=repr(error))
            self._versions, self._since, self._of = {}, {}, {}

    def _load_stored(self) -> None:
        for name, (version, since) in json.loads(self._store.meta(_STORED_VERSIONS) or "{}").items():
            self._versions[name], self._since[name] = version, datetime.fromisoformat(since)
        for row in json.loads(self._store.meta(_STORED) or "[]"):
            if self._versions.get(row["template"]) != row["version"]:
                continue
            self._of[(row["provider"], row["template"])] = Breaker(
                failures=row["failures"],
                detail=row["detail"],
                pause_s=row["pause_s"],
                open_until=datetime.fromisoformat(row["open_until"]) if row["open_until"] else None,
            )
