"""Where agents dial in: the WebSocket endpoint and the TCP port, each with agent.jar's own checks."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
from typing import Any

from aiohttp import WSMsgType, web

from standin import http
from standin.link import AgentLink
from standin.nodes import Node, secret_of
from standin.world import World

routes = web.RouteTableDef()
CAPABILITY = "rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0eQAAAAAAAAABAgABSgAEbWFza3hwAAAAAAAAAf4="
MAX_MESSAGE = 1 << 20
#: How whoever only wants to know whether the port is one for agents begins, on a real controller too.
_PING = b"Protocol:Ping"
_PING_LENGTH = len(_PING).to_bytes(2, "big")


class Unwelcome(Exception):  # noqa: N818
    """An agent that is not let in."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def admit(world: World, name: str, secret: str, cookie: str | None) -> Node:
    """Raises Unwelcome. An agent that comes back with its cookie takes the place of its own old connection."""
    node = world.nodes.get(name)
    if node is None:
        raise Unwelcome(400, f"there is no node {name}")
    if not hmac.compare_digest(secret.encode(), secret_of(name).encode()):
        raise Unwelcome(403, "Forbidden")
    if node.link is not None:
        if cookie is None or cookie != node.link.cookie:
            raise Unwelcome(500, f"{name} is already connected to this controller. Rejecting this connection.")
        old = node.link
        world.disconnect(node, old)
        old.close()
    return node


@routes.get("/wsagents/")
async def web_socket(request: web.Request) -> web.StreamResponse:
    world = http.world(request)
    name, secret = request.headers.get("Node-Name"), request.headers.get("Secret-Key")
    if name is None or secret is None or "X-Remoting-Capability" not in request.headers:
        return http.jetty(request, 400, "This endpoint is only for use from agent.jar in WebSocket mode")
    try:
        node = admit(world, name, secret, request.headers.get("Connection-Cookie"))
    except Unwelcome as refusal:
        if refusal.status == 403:
            return http.empty(403)
        return http.jetty(request, refusal.status, str(refusal))
    cookie = secrets.token_hex(16)
    socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, autoping=True, timeout=0.5)
    socket.headers["Connection-Cookie"] = cookie
    socket.headers["X-Remoting-Capability"] = CAPABILITY
    socket.headers["X-Remoting-Minimum-Version"] = "4.13"
    await socket.prepare(request)

    async def send(message: dict[str, Any]) -> None:
        if socket.closed:
            raise ConnectionResetError
        await socket.send_str(json.dumps(message))

    def hang_up() -> None:
        if request.transport is not None:
            request.transport.close()

    link = AgentLink(send, hang_up, cookie, world.offsets)
    try:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                _received(world, node, link, json.loads(message.data), "WebSocket", request.remote or "?")
    finally:
        world.disconnect(node, link)
        link.lost()
    return socket


def _received(world: World, node: Node, link: AgentLink, message: dict[str, Any], how: str, peer: str) -> None:
    if message.get("op") != "ready":
        link.receive(message)
        return
    if node.deleted or node.link is not None:
        link.close()
        return
    delay_s = world.knobs.agent_online_delay_s
    if world.knobs.hang_agents:
        return  # connected, and never online
    if delay_s > 0:
        loop = asyncio.get_running_loop()
        loop.call_later(delay_s, _arrive, world, node, link, how, peer)
    else:
        _arrive(world, node, link, how, peer)


def _arrive(world: World, node: Node, link: AgentLink, how: str, peer: str) -> None:
    if not node.deleted and node.link is None and not link.is_lost:
        world.connect(node, link, how, peer)


class TcpPort:
    """The agent port: a JSON text on each line, after one line that says who calls."""

    def __init__(self, holder: http.Holder) -> None:
        self._holder = holder
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self, host: str) -> int:
        self._server = await asyncio.start_server(self._serve, host, 0, limit=MAX_MESSAGE)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError):
                await self._agent(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(message: dict[str, Any]) -> None:
            if writer.is_closing():
                raise ConnectionResetError
            writer.write(json.dumps(message).encode() + b"\n")
            await writer.drain()

        first = await reader.readexactly(len(_PING_LENGTH))
        if first == _PING_LENGTH:
            if await reader.readexactly(len(_PING)) == _PING:
                writer.write(b"Ping\n")
                await writer.drain()
            return
        hello = json.loads(first + await reader.readline())
        world = self._holder.world
        try:
            if world.starting:
                raise Unwelcome(503, "the controller is starting")
            node = admit(world, str(hello["name"]), str(hello["secret"]), hello.get("cookie"))
        except Unwelcome as refusal:
            await send({"error": str(refusal)})
            return
        cookie = secrets.token_hex(16)
        link = AgentLink(send, writer.close, cookie, world.offsets)
        await send({"cookie": cookie})
        peer = writer.get_extra_info("peername")[0]
        try:
            while line := await reader.readline():
                _received(world, node, link, json.loads(line), "JNLP4-connect", peer)
        finally:
            world.disconnect(node, link)
            link.lost()
