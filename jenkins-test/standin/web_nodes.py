"""Nodes over HTTP: the set, one computer, its launch file, its configuration, labels."""

from __future__ import annotations

import json

from aiohttp import web

from standin import http
from standin.export import View
from standin.labels import BadExpression
from standin.nodes import BadNode, Node, OfflineCause, check_name, from_form, secret_of, to_xml, update_from_xml
from standin.shapes import Of
from standin.shapes_nodes import COMPUTER_SET, computer, label_view

routes = web.RouteTableDef()
_BUILT_IN = ("(built-in)", "(master)", "built-in")


def _node(request: web.Request) -> Node | None:
    name = request.match_info["name"]
    nodes = http.world(request).nodes
    return nodes.built_in if name in _BUILT_IN else nodes.get(name)


@routes.get("/computer/api/json")
async def computers(request: web.Request) -> web.Response:
    world = http.world(request)
    return http.api_json(request, View(COMPUTER_SET, Of(world, http.root(request), world.nodes.by_name)))


@routes.get("/computer/new")
async def new(request: web.Request) -> web.Response:
    return http.page(request, 200, "New node", "")


@routes.post("/computer/doCreateItem")
async def create(request: web.Request) -> web.Response:
    world = http.world(request)
    form = {**request.query, **await request.post()}
    name = str(form.get("name", "")).strip()
    try:
        check_name(name)
        if world.nodes.get(name):
            raise BadNode(
                f"Agent called \N{LEFT SINGLE QUOTATION MARK}{name}\N{RIGHT SINGLE QUOTATION MARK} already exists"
            )
    except BadNode as error:
        return http.refused(request, str(error))
    try:
        kind = str(form["type"])
        if not kind.startswith("hudson.slaves.DumbSlave"):
            raise ValueError(f"{kind} is no type of node")
        node = from_form(name, json.loads(str(form["json"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return http.oops(request, 500, f"Logging ID: the form is wrong: {error}")
    world.add_node(node)
    return http.redirect(request, "computer/")


@routes.get("/computer/{name}/api/json")
async def one(request: web.Request) -> web.Response:
    node = _node(request)
    if node is None:
        return http.not_found(request)
    return http.api_json(request, computer(http.world(request), http.root(request), node))


@routes.get("/computer/{name}/{file:jenkins-agent.jnlp|slave-agent.jnlp}")
async def launch_file(request: web.Request) -> web.Response:
    node = _node(request)
    if node is None:
        return http.not_found(request)
    words = [secret_of(node.name), node.name]
    if node.websocket:
        words.append("-webSocket")
    words += ["-workDir", node.remote_fs, "-internalDir", "remoting", "-url", http.root(request)]
    arguments = "".join(f"<argument>{w}</argument>" for w in words)
    body = f"<jnlp><application-desc>{arguments}</application-desc></jnlp>"
    return web.Response(body=body.encode(), headers={"Content-Type": "application/x-java-jnlp-file"})


@routes.get("/computer/{name}/config.xml")
async def config(request: web.Request) -> web.Response:
    node = _node(request)
    if node is None:
        return http.not_found(request)
    return web.Response(body=to_xml(node).encode(), headers={"Content-Type": "application/xml"})


@routes.post("/computer/{name}/config.xml")
async def configure(request: web.Request) -> web.Response:
    node = _node(request)
    if node is None:
        return http.not_found(request)
    try:
        update_from_xml(node, await request.read())
    except ValueError as error:
        return http.oops(request, 500, str(error))
    http.world(request).changed(node)
    return http.empty()


def _cause(request: web.Request, message: str) -> OfflineCause:
    text = f"Disconnected by {http.user(request)}" + (f" : {message}" if message else "")
    return OfflineCause("hudson.slaves.OfflineCause$UserCause", message, text)


@routes.post("/computer/{name}/toggleOffline")
async def toggle_offline(request: web.Request) -> web.Response:
    node = _node(request)
    if node is None:
        return http.not_found(request)
    message = str({**request.query, **await request.post()}.get("offlineMessage", ""))
    http.world(request).hold(node, _cause(request, message) if node.held is None else None)
    return http.redirect(request, f"computer/{node.name}/")


@routes.post("/computer/{name}/changeOfflineCause")
async def change_offline_cause(request: web.Request) -> web.Response:
    """Takes the node offline, too, if it is not."""
    node = _node(request)
    if node is None:
        return http.not_found(request)
    message = str({**request.query, **await request.post()}.get("offlineMessage", "")).strip()
    http.world(request).hold(node, _cause(request, message))
    return http.redirect(request, f"computer/{node.name}/")


@routes.post("/computer/{name}/doDelete")
async def delete(request: web.Request) -> web.Response:
    node = http.world(request).nodes.get(request.match_info["name"])
    if node is None:
        return http.not_found(request)
    http.world(request).delete_node(node)
    return http.redirect(request, "computer/")


@routes.delete("/computer/{name}/")
async def delete_does_nothing(request: web.Request) -> web.Response:
    """As on a real controller: 200, and the node stays."""
    return http.not_found(request) if _node(request) is None else http.page(request, 200, "Node", "")


@routes.get("/computer/{name}/logText/progressiveText")
async def launch_log(request: web.Request) -> web.Response:
    node = _node(request)
    return http.not_found(request) if node is None else http.progressive(request, node.log, more=True)


@routes.get("/label/{name:.+}/api/json")
async def label(request: web.Request) -> web.Response:
    try:
        view = label_view(http.world(request), http.root(request), request.match_info["name"])
    except BadExpression as error:
        return http.oops(request, 500, str(error))
    return http.api_json(request, view)
