"""The queue over HTTP."""

from __future__ import annotations

from aiohttp import web

from standin import http, shapes
from standin.export import View
from standin.queue import Item
from standin.shapes import QUEUE, Of

routes = web.RouteTableDef()


@routes.get("/queue/api/json")
async def queue(request: web.Request) -> web.Response:
    world = http.world(request)
    return http.api_json(request, View(QUEUE, Of(world, http.root(request), world.queue)))


def _item(request: web.Request, text: str) -> Item | None:
    queue = http.world(request).queue
    return queue.items.get(int(text)) or queue.find_left(int(text))


@routes.get("/queue/item/{id}/api/json")
async def item(request: web.Request) -> web.Response:
    if not request.match_info["id"].isdigit():
        return http.oops(request, 500, "Logging ID: no number")
    found = _item(request, request.match_info["id"])
    if found is None:
        return http.not_found(request)
    return http.api_json(request, shapes.item(http.world(request), http.root(request), found))


@routes.post("/queue/cancelItem")
async def cancel(request: web.Request) -> web.Response:
    form = {**request.query, **await request.post()}
    world = http.world(request)
    text = str(form.get("id", ""))
    found = world.queue.items.get(int(text)) if text.isdigit() else None
    if found is None:
        return http.oops(request, 500, "Logging ID: there is no such item")
    if found.task.kind == "pipeline":
        found.task.fail("Queue task was cancelled", aborted=True)  # type: ignore[attr-defined]
    world.cancel(found)
    return http.empty(204)
