"""The stand-in as a program: starts, prints one line of JSON, serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from standin import agents, faults, http, pages, web_bridge, web_core, web_jobs, web_nodes, web_queue, web_standin
from standin.world import World

_ROUTES = (web_core, web_nodes, web_queue, web_jobs, web_bridge, web_standin, agents, pages)


@web.middleware
async def missing(request: web.Request, handler: Any) -> web.StreamResponse:
    """An unknown path is Jenkins' page, a method that a path does not know too."""
    try:
        return await handler(request)  # type: ignore[no-any-return]
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return http.not_found(request)


def application(holder: http.Holder) -> web.Application:
    app = web.Application(middlewares=[faults.inject, http.authenticate, missing], client_max_size=16 << 20)
    http.prepare(app, holder)
    for module in _ROUTES:
        app.add_routes(module.routes)
    return app


class Standin:
    """A running stand-in, for a program or a test in the same process."""

    def __init__(self, world: World, host: str = "127.0.0.1", port: int = 0) -> None:
        self._holder = http.Holder(world)
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None
        self._tcp = agents.TcpPort(self._holder)

    @property
    def world(self) -> World:
        return self._holder.world

    async def open(self) -> str:
        """Raises OSError if the port is taken."""
        if self.world.init_bridge is not None:
            self.world.install_bridge(self.world.init_bridge)
        self._runner = web.AppRunner(application(self._holder), access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, backlog=1024)
        await site.start()
        port = self._runner.addresses[0][1]
        self.world.tcp_port = await self._tcp.open(self._host)
        shown = "127.0.0.1" if self._host == "0.0.0.0" else self._host
        self.world.url = f"http://{shown}:{port}/"
        return self.world.url

    async def close(self) -> None:
        self.world.end()
        await self._tcp.close()
        if self._runner:
            await self._runner.cleanup()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="standin", description="A Jenkins controller without Jenkins, for tests.")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", default="admin")
    parser.add_argument("--token", help="the user's API token; default: a new one")
    parser.add_argument("--bridge", choices=("none", "init"), default="none", help="init: there from the start")
    parser.add_argument("--bridge-owner", action="append", help="owner ids that an init bridge serves; default: any")
    parser.add_argument("--ready-file", type=Path, help="also write the line with address and token there, mode 0600")
    return parser.parse_args(argv)


async def _serve(args: argparse.Namespace) -> int:
    world = World(user=args.user, password=args.password, token=args.token)
    if args.bridge == "init":
        world.init_bridge = {"mode": "init", "user": args.user, "owners": args.bridge_owner}
    standin = Standin(world, args.host, args.port)
    try:
        url = await standin.open()
    except OSError as error:
        print(f"port {args.port} of {args.host} cannot be used: {error.strerror}", file=sys.stderr)
        return 1
    ready = {"url": url, "user": args.user, "token": world.tokens[args.user], "pid": os.getpid()}
    ready["agent_port"] = world.tcp_port
    line = json.dumps(ready)
    if args.ready_file:
        args.ready_file.touch(mode=0o600)
        args.ready_file.write_text(line + "\n")
    print(line, flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await standin.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return asyncio.run(_serve(_arguments(argv)))
