"""Whether every controller and provider of a configuration answers, and can do what templates ask; changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from provisioner.backends.contract import Backend, Order
from provisioner.config import BridgeChoice, Settings, Template
from provisioner.controller.port import Controller
from provisioner.lifecycle.desk import ControllerHandle
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.lifecycle.secret_files import secret_files
from provisioner.model.errors import LaunchError, ProvisionerError, Reason
from provisioner.sidecar.assembly import make_controllers, make_providers, make_static_nodes

REACH_S = 30.0
_CLOSE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """What one controller or provider said, or why a template cannot work at a provider."""

    kind: str  # controller | provider | template
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
    reached = await asyncio.gather(
        *(_reach("controller", c.name, _controller(c), within_s) for c in controllers.values()),
        *(_reach("provider", p.name, _provider(p), within_s) for p in providers.values()),
    )
    there = {one.name for one in reached if one.kind == "provider" and one.ok}
    fits = [
        await _reach("template", f"{t.name} at {name}", _template(settings.id, t, providers[name]), within_s)
        for t in settings.templates
        for name in t.providers
        if name in there
    ]
    await _close([*(c.port for c in controllers.values()), *(p.backend for p in providers.values())])
    # of templates only what is wrong is told: there may be hundreds
    return [*reached, *(one for one in fits if not one.ok)]


async def _controller(handle: ControllerHandle) -> str:
    info = await handle.port.open()
    return f"Jenkins {info.version}, as user {info.user}"


async def _provider(handle: ProviderHandle) -> str:
    await handle.backend.open()
    return await handle.backend.ping()


async def _template(owner: str, template: Template, handle: ProviderHandle) -> str:
    """Whether an agent of the template could start there, as far as can be told without starting one.

    Raises:
        LaunchError: it could not; or a secret of it cannot be read.
    """
    order = Order(
        agent=template.name,
        owner=owner,
        image=template.image_for(handle.kind),
        command=("{java}",),
        remote_fs=template.remote_fs,
        files=await asyncio.to_thread(secret_files, template),
        java=template.java.value,
        run_as=template.run_as,
        env=dict(template.env),
        pull=template.pull,
        template=template.spec(),
    )
    problems = await handle.backend.verify(order)
    if problems:
        raise LaunchError("; ".join(problems), reason=Reason.CREATE_REJECTED)
    return "ok"


async def _close(things: Sequence[Controller | Backend]) -> None:
    """What they answered is all that was asked."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await asyncio.gather(*(thing.close() for thing in things), return_exceptions=True)


async def _reach(kind: str, name: str, ask: Awaitable[str], within_s: float) -> Reached:
    try:
        async with asyncio.timeout(within_s):
            said, ok = await ask, True
    except TimeoutError:
        said, ok = f"no answer within {within_s:.0f} s", False
    except ProvisionerError as error:
        said, ok = error.message, False
    return Reached(kind=kind, name=name, ok=ok, text=said)
