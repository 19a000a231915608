"""What the knobs do to requests and answers."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import web

from standin import http
from standin.knobs import Knobs

NEVER = ("/standin/", "/wsagents/", "/jnlpJars/")


def _meant(knobs: Knobs, request: web.Request) -> bool:
    if knobs.match:
        return re.search(knobs.match, f"{request.method} {request.path}") is not None
    return not request.path.startswith(NEVER)


@web.middleware
async def inject(request: web.Request, handler: Any) -> web.StreamResponse:
    world = http.world(request)
    knobs = world.knobs
    if request.path.startswith("/standin/"):
        return await handler(request)  # type: ignore[no-any-return]
    world.requests[f"{request.method} {_shape(request.path)}"] += 1
    if not _meant(knobs, request):
        return await handler(request)  # type: ignore[no-any-return]
    if knobs.latency_ms or knobs.latency_jitter_ms:
        await asyncio.sleep((knobs.latency_ms + knobs.rng.random() * knobs.latency_jitter_ms) / 1000)
    if not knobs.armed or knobs.times == 0:
        return await handler(request)  # type: ignore[no-any-return]
    if knobs.times > 0:
        knobs.times -= 1
    return await _faulty(request, handler, knobs)


async def _faulty(request: web.Request, handler: Any, knobs: Knobs) -> web.StreamResponse:
    before = knobs.hits
    knobs.hits += 1
    if knobs.forbid:
        return http.oops(request, 403, "the account is missing the Overall/Read permission")
    if knobs.login_redirect:
        return web.Response(status=302, headers={"Location": f"{http.root(request)}login?from={request.path}"})
    if knobs.html_for_json:
        return web.Response(text="<html><body>Your proxy greets you.</body></html>", content_type="text/html")
    if knobs.hit(knobs.error_rate):
        return http.jetty(request, knobs.error_status, "a fault on purpose")
    if knobs.hit(knobs.drop_rate):
        if knobs.drop_after:
            await handler(request)
        return await _cut(request, b"")
    answer = await handler(request)
    if knobs.hit(knobs.truncate_rate) and isinstance(answer, web.Response) and isinstance(answer.body, bytes):
        head = f"HTTP/1.1 {answer.status} x\r\n" + "".join(f"{k}: {v}\r\n" for k, v in answer.headers.items())
        head += f"Content-Length: {len(answer.body)}\r\n\r\n"
        return await _cut(request, head.encode() + answer.body[: len(answer.body) // 2])
    knobs.hits = before
    return answer  # type: ignore[no-any-return]


async def _cut(request: web.Request, data: bytes) -> web.StreamResponse:
    if request.transport is not None:
        if data:
            request.transport.write(data)
        request.transport.close()
    raise web.HTTPInternalServerError  # nobody hears it any more


def _shape(path: str) -> str:
    """A path with what is particular left out, so that requests can be counted by kind."""
    path = re.sub(r"^/computer/(?!api/|doCreateItem)[^/]+/", "/computer/N/", path)
    path = re.sub(r"(/job/[^/]+)+", "/job/J", path)
    return re.sub(r"/\d+(?=/|$)", "/N", path)
