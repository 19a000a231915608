"""What only a stand-in has: knobs, a restart on request, scale, and the sight of everything."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from standin import http
from standin.nodes import Node
from standin.queue import Phase
from standin.restart import restart
from standin.world import World

routes = web.RouteTableDef()
_PENDING: set[asyncio.Task[None]] = set()


async def _body(request: web.Request) -> dict[str, Any]:
    text = await request.text()
    try:
        value = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise web.HTTPBadRequest(text="the body must be an object")
    return value


@routes.get("/standin/knobs")
async def show_knobs(request: web.Request) -> web.Response:
    return web.json_response(http.world(request).knobs.values())


@routes.post("/standin/knobs")
async def turn_knobs(request: web.Request) -> web.Response:
    """Knobs not named stay; `{"reset": true}` puts all of them back first."""
    world = http.world(request)
    values = await _body(request)
    if values.pop("reset", False):
        world.knobs = type(world.knobs)()
    try:
        world.knobs.turn(values)
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return web.json_response(world.knobs.values())


@routes.post("/standin/restart")
async def restart_now(request: web.Request) -> web.Response:
    """`crash`, `next_id`, `down_s`; answers when the new session is up."""
    values = await _body(request)
    world = http.world(request)
    if world.starting:
        raise web.HTTPConflict(text="a restart is under way")
    next_id = values.get("next_id")
    task = asyncio.get_running_loop().create_task(
        restart(
            world,
            crash=bool(values.get("crash", False)),
            next_id=None if next_id is None else int(next_id),
            down_s=float(values.get("down_s", 0.0)),
        )
    )
    _PENDING.add(task)
    task.add_done_callback(_PENDING.discard)
    if values.get("wait", True):
        await asyncio.shield(task)
    return web.json_response({"session": world.session})


@routes.post("/standin/reset")
async def reset(request: web.Request) -> web.Response:
    """Everything as at the start, in a new session: no job, no node, no item, no fault."""
    holder = request.app[http.HOLDER]
    old, holder.world = holder.world, holder.world.successor()
    old.end()
    return web.json_response({"session": holder.world.session})


def _job_xml(label: str) -> bytes:
    return (
        "<project><properties><hudson.model.ParametersDefinitionProperty><parameterDefinitions>"
        "<hudson.model.StringParameterDefinition><name>N</name><defaultValue/>"
        "</hudson.model.StringParameterDefinition></parameterDefinitions>"
        f"</hudson.model.ParametersDefinitionProperty></properties><assignedNode>{label}</assignedNode>"
        "<concurrentBuild>true</concurrentBuild><builders><hudson.tasks.Shell><command>true</command>"
        "</hudson.tasks.Shell></builders></project>"
    ).encode()


@routes.post("/standin/scale")
async def scale(request: web.Request) -> web.Response:
    """Make `items` queue items of `label`, `nodes` idle static ones of `node_label`; `agents` simulates agents."""
    world = http.world(request)
    values = await _body(request)
    if "agents" in values:
        world.virtual = values["agents"] or None
        world.reconnect_virtual()
    for number in range(int(values.get("nodes", 0))):
        name = f"{values.get('node_prefix', 'static')}-{number}"
        if world.nodes.get(name) is None:
            node = Node(name, remote_fs="/tmp", label_text=str(values.get("node_label", "")), mode="EXCLUSIVE")
            node.resize(1)
            world.add_node(node)
    label = str(values.get("label", "scale"))
    name = str(values.get("job", f"scale-{label}"))
    job = world.jobs.get(name) or world.jobs.create(name, _job_xml(label))
    first = job.next_number + len(world.queue.items)
    ids = [
        world.queue_build(job, {"N": str(first + n)}, http.user(request), 0.0).id
        for n in range(int(values.get("items", 0)))
    ]
    return web.json_response({"job": name, "first_id": ids[0] if ids else None, "items": len(ids)})


def _overlap(history: list[dict[str, Any]]) -> dict[str, int]:
    """The most builds that ran on each node at once."""
    moments: dict[str, list[tuple[int, int]]] = {}
    for record in history:
        changes = moments.setdefault(record["node"], [])
        changes.append((record["started_ms"], 1))
        if record["finished_ms"] is not None:
            changes.append((max(record["finished_ms"], record["started_ms"]), -1))
    most: dict[str, int] = {}
    for node, changes in moments.items():
        now = 0
        for _, change in sorted(changes):
            now += change
            most[node] = max(most.get(node, 0), now)
    return most


def state(world: World) -> dict[str, Any]:
    by_node: dict[str, list[str]] = {}
    for record in world.history:
        by_node.setdefault(record["node"], []).append(record["build"])
    phases = dict.fromkeys((p.value for p in Phase if p is not Phase.LEFT), 0)
    for item in world.queue.items.values():
        phases[item.phase.value] += 1
    return {
        "session": world.session,
        "queue": {**phases, "next_id": world.queue.next_id},
        "history": world.history,
        "builds_by_node": by_node,
        "running": world.running,
        "max_running": world.max_running,
        "max_running_by_node": _overlap(world.history),
        "max_nodes": world.max_nodes,
        "nodes": {
            n.name: {
                "online": n.online,
                "busy": not n.idle,
                "accepting": n.accepting,
                "bound": n.bound,
                "labels": sorted(n.atoms),
                "stored_labels": n.label_text.split(),
                "description": n.description,
            }
            for n in world.nodes.by_name.values()
        },
        "node_history": world.node_history,
        "bridge": None if world.bridge is None else {"mode": world.bridge.mode, "epoch": world.bridge.epoch},
        "requests": dict(world.requests),
        "faults": world.knobs.hits,
    }


@routes.get("/standin/state")
async def show_state(request: web.Request) -> web.Response:
    return web.json_response(state(http.world(request)))


@routes.post("/standin/bridge")
async def bridge(request: web.Request) -> web.Response:
    """Put the twin in or take it out, without a script: `{"verb": "install"|"remove", "mode": …}`."""
    values = {"mode": "init", **await _body(request)}
    return web.json_response(http.world(request).install_bridge(values))
