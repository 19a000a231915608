"""`provisioner bridge print|install|status|remove`: the extension inside a controller."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from provisioner.commands.options import Subparsers, add_config, add_json
from provisioner.commands.tables import plain, print_json, print_table
from provisioner.model.errors import ConfigError, ControllerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from provisioner.config import Controller, Settings
    from provisioner.controller.bridge_answers import BridgeStatus
    from provisioner.controller.bridge_client import BridgeClient

_HEADS = ("CONTROLLER", "BRIDGE", "CONTENT", "MODE", "SESSION", "LISTENERS", "READERS", "LOST", "OWNERS")
_BY_HAND = "an administrator can do it: run the output of `provisioner bridge print{option}` in the script console"


def add(subparsers: Subparsers) -> None:
    """Add the verb and what it can do."""
    parser = subparsers.add_parser("bridge", help="the extension inside a controller", allow_abbrev=False)
    acts = parser.add_subparsers(dest="act", metavar="print|install|status|remove", required=True)

    shown = acts.add_parser("print", help="write the file for init.groovy.d to standard output", allow_abbrev=False)
    shown.add_argument("--owner", action="append", default=[], metavar="ID", help="serve this owner id too")
    shown.add_argument("--removal", action="store_true", help="the script that takes the bridge out instead")
    _add(shown, _print)

    _add(acts.add_parser("install", help="put it in through the script console", allow_abbrev=False), _install)

    status = acts.add_parser("status", help="what is in the controllers", allow_abbrev=False)
    add_json(status)
    _add(status, _status)

    _add(acts.add_parser("remove", help="take it out through the script console", allow_abbrev=False), _remove)


def _add(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    add_config(parser)
    parser.add_argument("--controller", metavar="NAME", help="which one, where the configuration has several")
    parser.set_defaults(run=run)


# -- the acts


def _print(args: argparse.Namespace) -> int:
    from provisioner.config.values import owner_id  # noqa: PLC0415
    from provisioner.controller.bridge_script import render_init, render_removal  # noqa: PLC0415

    settings, (controller,) = _chosen(args, several=False)
    if args.removal:
        print(render_removal(), end="")
        return 0
    for owner in args.owner:
        try:
            owner_id(owner)
        except ValueError as error:
            raise ConfigError(f"--owner {error}") from error
    owners = list(dict.fromkeys([settings.id, *args.owner]))
    print(render_init(user=controller.user, owners=owners), end="")
    return 0


def _install(args: argparse.Namespace) -> int:
    settings, (controller,) = _chosen(args, several=False)

    async def act(client: BridgeClient) -> str:
        found = await _found(client)
        if found is not None and found.mode.value == "init":
            return f"the administrator's bridge {found.bridge} is there already; its file decides, nothing was changed"
        try:
            installed = await client.install()
        except ControllerError as error:
            raise _by_hand(error, "") from error
        now = await client.status()
        version = now.bridge if now else "?"
        if installed.done:
            return f"bridge {version} is in"
        if installed.used_by:
            users = ", ".join(installed.used_by)
            return (
                f"bridge {version} of another release is there, and {users} works with it; nothing was changed"
                " (`provisioner bridge remove` first takes it out all the same)"
            )
        return f"bridge {version} is there already; nothing was changed"

    print(f"{controller.name}: {_ask(settings, controller, act)}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    settings, (controller,) = _chosen(args, several=False)

    async def act(client: BridgeClient) -> str:
        try:
            mode = None if (found := await _found(client)) is None else found.mode.value
        except ControllerError as error:
            if error.code != 403:
                raise
            mode = None  # it serves another account; an administrator may take it out all the same
        try:
            removed = await client.uninstall()
        except ControllerError as error:
            raise _by_hand(error, " --removal") from error
        if not removed:
            return "there was no bridge"
        if mode == "init":
            return "the bridge is out until the controller starts again; delete its file from init.groovy.d, too"
        return "the bridge is out; a running provisioner puts it back, unless its configuration says `bridge: off`"

    print(f"{controller.name}: {_ask(settings, controller, act)}")
    return 0


def _status(args: argparse.Namespace) -> int:
    settings, controllers = _chosen(args, several=True)
    told = [_told(settings, controller) for controller in controllers]
    if args.json:
        print_json({"controllers": told})
    else:
        answered = [_row(one) for one in told if one["problem"] is None]
        if answered:
            print_table(_HEADS, answered, nothing="")
        for one in told:
            if one["problem"] is not None:
                print(f"provisioner bridge status: {plain(one['problem'])}", file=sys.stderr)
    return 1 if any(one["problem"] for one in told) else 0


def _told(settings: Settings, controller: Controller) -> dict[str, Any]:
    from provisioner.controller.bridge_script import content  # noqa: PLC0415

    told: dict[str, Any] = {"controller": controller.name, "bridge": None, "problem": None}
    try:
        status = _ask(settings, controller, lambda client: client.status())
    except ControllerError as error:
        return told | {"problem": error.message}
    if status is None:
        return told
    return told | {
        "bridge": status.bridge,
        "content": status.content,
        "same_release": status.content == content(),
        "protocol": list(status.protocol),
        "mode": status.mode.value,
        "session": status.session,
        "epoch": status.epoch,
        "listeners": dict(status.listeners),
        "events_lost": status.events_lost,
        "readers": status.readers,
        "owners": list(status.owners),
    }


def _row(told: dict[str, Any]) -> Sequence[object]:
    if told["bridge"] is None:
        return (told["controller"], "none", *("-" * 7))
    listeners = told["listeners"]
    missing = [name for name, count in listeners.items() if count != 1]
    shown = f"{sum(listeners.values())}" + (f" (not once: {', '.join(missing)})" if missing else "")
    return (
        told["controller"],
        told["bridge"],
        (told["content"] or "?") + ("" if told["same_release"] else " (another release's)"),
        told["mode"],
        told["session"],
        shown,
        told["readers"],
        told["events_lost"],
        told["owners"],
    )


# -- what they share


def _chosen(args: argparse.Namespace, *, several: bool) -> tuple[Settings, Sequence[Controller]]:
    """The controllers that the options name; exactly one unless `several` will do.

    Raises:
        ConfigError: they name none, or not one of several.
    """
    from provisioner.config import load  # noqa: PLC0415  (slow to load; the help needs none)
    from provisioner.telemetry.logs import configure_logs  # noqa: PLC0415

    configure_logs(level="error", json_lines=False)
    settings = load(args.config)
    names = [controller.name for controller in settings.controllers]
    if args.controller is not None:
        found = [controller for controller in settings.controllers if controller.name == args.controller]
        if not found:
            raise ConfigError(f"--controller {args.controller}: the configuration has {', '.join(names)}")
        return settings, found
    if len(names) > 1 and not several:
        raise ConfigError(f"the configuration has several controllers; name one with --controller: {', '.join(names)}")
    return settings, settings.controllers


def _ask(settings: Settings, controller: Controller, act: Callable[[BridgeClient], Awaitable[Any]]) -> Any:
    async def ask() -> Any:
        async with _client(settings, controller) as client:
            return await act(client)

    return asyncio.run(ask())


@asynccontextmanager
async def _client(settings: Settings, controller: Controller) -> AsyncIterator[BridgeClient]:
    from provisioner.controller.bridge_client import BridgeClient  # noqa: PLC0415
    from provisioner.controller.rest import Rest  # noqa: PLC0415

    http = Rest.of(controller)
    client = BridgeClient(
        http, controller=controller.name, user=controller.user, owner=settings.id, timeout_s=controller.timeout_s
    )
    try:
        yield client
    finally:
        await client.close()
        http.close()


async def _found(client: BridgeClient) -> BridgeStatus | None:
    """What is in; one of another protocol counts as none here, since the script knows what to do with it."""
    try:
        return await client.status()
    except ControllerError as error:
        if error.code != 409:
            raise
        return None


def _by_hand(error: ControllerError, option: str) -> ControllerError:
    """The same error; for an account that is no administrator with the other way."""
    if error.code != 403:
        return error
    return ControllerError(f"{error.message}; {_BY_HAND.format(option=option)}", code=403)
