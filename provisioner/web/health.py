"""Whether the loops are alive, and whether the sidecar can do its work."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.lifecycle.engine import Engine

#: A loop that has not turned for this long hangs; the slowest turn of all is a long poll.
LOOP_STALE_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The answer of `/healthz` or `/readyz`."""

    ok: bool
    detail: dict[str, object]


def health(engine: Engine) -> Health:
    """The age of each loop's last turn, seconds."""
    now = engine.desk.clock.monotonic()
    ages = {loop: round(now - at, 1) for loop, at in sorted(engine.desk.ticks.items())}
    stale = [loop for loop, age_s in ages.items() if age_s > LOOP_STALE_S]
    return Health(ok=not stale, detail={"loops": ages, "stale": stale})


def readiness(engine: Engine) -> Health:
    """Every controller and every provider, with the problem of those that do not answer."""
    desk = engine.desk
    controllers = {
        name: c.problem if not c.up else "ok" if c.seen else c.unseen or "ok" for name, c in desk.controllers.items()
    }
    providers = {name: p.problem if not p.up else "ok" for name, p in desk.providers.items()}
    reached = any(c.up and c.seen for c in desk.controllers.values()) and any(p.up for p in desk.providers.values())
    detail: dict[str, object] = {
        "controllers": controllers,
        "providers": providers,
        "state": desk.store.problem or "ok",
    }
    return Health(ok=reached and not desk.store.problem, detail=detail)
