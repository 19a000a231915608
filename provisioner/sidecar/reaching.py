"""Whether every controller and provider of a configuration answers; changes nothing anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from provisioner.config import BridgeChoice, Settings
from provisioner.lifecycle.desk import ControllerHandle
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.model.errors import ProvisionerError
from provisioner.sidecar.assembly import make_controllers, make_providers, make_static_nodes

REACH_S = 30.0
_CLOSE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """What one controller or provider said."""

    kind: str  # controller | provider
    name: str
    ok: bool
    text: str  # its version, or the problem

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {'ok' if self.ok else 'FAILED'}, {self.text}"


async def reach_all(settings: Settings, within_s: float = REACH_S) -> Sequence[Reached]:
    """Ask all of them at once.

    Raises:
        ConfigError: a secret is missing.
        LaunchError: a backend is not installed.
    """
    # a bridge that we would put in by script is left out: a check changes nothing in the controller
    plain = settings.model_copy(
        update={
            "controllers": tuple(
                c if c.bridge is BridgeChoice.INIT else c.model_copy(update={"bridge": BridgeChoice.OFF})
                for c in settings.controllers
            )
        }
    )
    controllers, providers = make_controllers(plain), make_providers(plain, make_static_nodes(plain))
    return await asyncio.gather(
        *(_reach("controller", c.name, _controller(c), c.port.close(), within_s) for c in controllers.values()),
        *(_reach("provider", p.name, _provider(p), p.backend.close(), within_s) for p in providers.values()),
    )


async def _controller(handle: ControllerHandle) -> str:
    info = await handle.port.open()
    return f"Jenkins {info.version}, as user {info.user}"


async def _provider(handle: ProviderHandle) -> str:
    await handle.backend.open()
    return await handle.backend.ping()


async def _reach(kind: str, name: str, ask: Awaitable[str], close: Awaitable[None], within_s: float) -> Reached:
    try:
        async with asyncio.timeout(within_s):
            said, ok = await ask, True
    except TimeoutError:
        said, ok = f"no answer within {within_s:.0f} s", False
    except ProvisionerError as error:
        said, ok = error.message, False
    try:
        async with asyncio.timeout(_CLOSE_S):
            await close
    except (TimeoutError, ProvisionerError):
        pass  # what it answered is all that was asked
    return Reached(kind=kind, name=name, ok=ok, text=said)
