"""The knobs: what goes wrong on purpose, set at run time."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class Knobs:
    """Rates are between 0 and 1 and fall on the requests whose path matches; `times` stops them after so many."""

    latency_ms: float = 0.0
    latency_jitter_ms: float = 0.0
    error_rate: float = 0.0
    error_status: int = 500
    drop_rate: float = 0.0  # the connection ends without an answer
    drop_after: bool = False  # what was asked for is done all the same
    truncate_rate: float = 0.0  # the answer ends in the middle
    forbid: bool = False  # 403 to every account
    html_for_json: bool = False  # a proxy's page with status 200
    login_redirect: bool = False
    match: str = ""  # a regular expression for "METHOD /path"; empty: all but the agents' own
    times: int = -1  # that many requests more; below 0: for ever
    hang_agents: bool = False  # connected, never online
    agent_online_delay_s: float = 0.0
    pipeline_removed_s: float = 300.0
    holder_gone_s: float = 45.0  # after that the bridge lets another provisioner have an owner id
    seed: int = 1
    hits: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def turn(self, values: dict[str, Any]) -> None:
        """Raises ValueError on an unknown knob or a wrong type."""
        known = {f.name: f for f in fields(self) if f.name not in ("rng", "hits")}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"there is no knob {name!r}; there are {', '.join(known)}")
            now = getattr(self, name)
            if isinstance(now, bool) != isinstance(value, bool) or not isinstance(value, type(now) | int):
                raise ValueError(f"knob {name} takes a {type(now).__name__}, not {value!r}")
        for name, value in values.items():
            setattr(self, name, value)
        if "match" in values:
            re.compile(self.match)
        if "seed" in values:
            self.rng = random.Random(self.seed)

    def values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rng"}

    @property
    def armed(self) -> bool:
        rates = self.error_rate or self.drop_rate or self.truncate_rate
        return bool(rates or self.forbid or self.html_for_json or self.login_redirect)

    def hit(self, rate: float) -> bool:
        return rate > 0 and self.rng.random() < rate
