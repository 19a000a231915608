"""`/provisioner-bridge/`: the twin's endpoints. Without a bridge they are a plain 404."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from standin import bridge_ops, http
from standin.bridge import LISTENERS, MOST_READERS, PROTOCOL, VERSION, Bridge
from standin.bridge_dialling import Refusal

routes = web.RouteTableDef()
Handler = Callable[[web.Request, Bridge], Awaitable[dict[str, Any]]]
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _admit(request: web.Request, bridge: Bridge, owner: str | None) -> str:
    user = http.user(request)
    if bridge.mode == "init":
        if bridge.user is not None and user != bridge.user:
            raise Refusal(403, f"account {user} is not the one this bridge serves")
        if owner is not None and bridge.owners is not None and owner not in bridge.owners:
            raise Refusal(403, f"owner {owner} is not one this bridge serves")
    elif user not in http.world(request).administrators:
        raise Refusal(403, f"account {user} lacks Overall/Administer")
    return owner or ""


async def _body(request: web.Request, bridge: Bridge) -> tuple[dict[str, Any], str]:
    try:
        body = json.loads(await request.text())
    except ValueError as error:
        raise Refusal(400, "the body is not JSON") from error
    if not isinstance(body, dict):
        raise Refusal(400, "the body must be an object")
    if body.get("protocol") != PROTOCOL:
        raise Refusal(409, "protocol")
    owner = body.get("owner")
    if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
        raise Refusal(400, "owner must be a plain id")
    return body, _admit(request, bridge, owner)


def _hold(bridge: Bridge, owner: str, holder: object) -> None:
    if holder is not None and not (isinstance(holder, str) and re.fullmatch(r"[A-Za-z0-9-]{0,64}", holder)):
        raise Refusal(400, "holder must be a plain id")
    if owner and holder and (held := bridge.hold(owner, holder)):
        raise Refusal(423, held)


async def _status(request: web.Request, bridge: Bridge) -> dict[str, Any]:
    _admit(request, bridge, None)
    return {
        "bridge": VERSION,
        "content": bridge.content,
        "protocol": [PROTOCOL],
        "mode": bridge.mode,
        "session": http.world(request).session,
        "epoch": bridge.epoch,
        "listeners": dict.fromkeys(LISTENERS, 1),
        "events_lost": bridge.events_lost,
        "readers": bridge.readers,
        "owners": bridge.owners if bridge.owners is not None else sorted(bridge.names),
    }


async def _hello(request: web.Request, bridge: Bridge) -> dict[str, Any]:
    body, owner = await _body(request, bridge)
    names = body.get("parameters") or []
    if not isinstance(names, list):
        raise Refusal(400, "parameters must be a list of names")
    _hold(bridge, owner, body.get("holder"))
    bridge.names[owner] = tuple(map(str, names))
    return bridge.snapshot(owner)


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not re.fullmatch(r"\d{1,18}", text):
        raise Refusal(400, f"{name} must be a number")
    return int(text)


async def _events(request: web.Request, bridge: Bridge) -> dict[str, Any]:
    owner = _admit(request, bridge, request.query.get("owner"))
    since = _number(request, "since")
    wait_s = min(55, _number(request, "wait"))
    _hold(bridge, owner, request.query.get("holder"))
    if bridge.readers >= MOST_READERS:
        raise Refusal(503, f"more than {MOST_READERS} readers")
    bridge.readers += 1
    try:
        return await bridge.read(owner, request.query.get("epoch", ""), since, wait_s)
    finally:
        bridge.readers -= 1


async def _apply(request: web.Request, bridge: Bridge) -> dict[str, Any]:
    body, owner = await _body(request, bridge)
    ops = body.get("ops")
    if not isinstance(ops, list):
        raise Refusal(400, "ops must be a list")
    if not all(isinstance(op, dict) for op in ops):
        raise Refusal(400, "an op must be an object")
    _hold(bridge, owner, body.get("holder"))
    return {"results": [bridge_ops.apply(bridge, owner, op) for op in ops]}


_CALLS: dict[str, tuple[str, Handler]] = {
    "status": ("GET", _status),
    "hello": ("POST", _hello),
    "events": ("GET", _events),
    "apply": ("POST", _apply),
}


@routes.route("*", "/provisioner-bridge/{call}")
async def call(request: web.Request) -> web.Response:
    bridge = http.world(request).bridge
    found = _CALLS.get(request.match_info["call"])
    if bridge is None or found is None:
        return http.not_found(request)
    method, handler = found
    status = 200
    try:
        if request.method != method:
            raise Refusal(405, f"use {method}")
        answer = await handler(request, bridge)
    except Refusal as refusal:
        status = refusal.code
        answer = {"error": str(refusal)}
        if status == 409:
            answer["speaks"] = [PROTOCOL]
    headers = {"Content-Type": "application/json;charset=UTF-8", "Cache-Control": "no-store"}
    return web.Response(status=status, body=json.dumps(answer, separators=(",", ":")).encode(), headers=headers)
