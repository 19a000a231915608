"""The bridge's ops, one function each; a refusal becomes the op's result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from standin import bridge_dialling
from standin.bridge import VERSION, Bridge, Known, is_marked, lines_of, mark
from standin.bridge_console import PREFIX, Pad
from standin.bridge_dialling import Refusal
from standin.jobs import Job
from standin.nodes import BadNode, Node, check_name, now_ms, secret_of
from standin.queue import Item, Phase

Op = Mapping[str, Any]


def apply(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    try:
        act = _OPS.get(str(op.get("op")))
        if act is None:
            raise Refusal(400, f"no such op: {op.get('op')}")
        return {"ok": True, **act(bridge, owner, op)}
    except Refusal as refusal:
        return {"ok": False, "code": refusal.code, "error": str(refusal)}
    except BadNode as error:
        return {"ok": False, "code": 400, "error": str(error)}


def _text(op: Op, key: str) -> str:
    value = op.get(key)
    if not isinstance(value, str) or not value:
        raise Refusal(400, f"{key} must be a text, in op {op.get('op')}")
    return value


def _list(op: Op, key: str) -> list[Any]:
    value = op.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refusal(400, f"{key} must be a list, in op {op.get('op')}")
    return value


def _request(op: Op, *, needed: bool) -> tuple[int, int] | None:
    value = op.get("request")
    if isinstance(value, dict) and isinstance(value.get("id"), int) and isinstance(value.get("since_ms"), int):
        return value["id"], value["since_ms"]
    if value is None and not needed:
        return None
    raise Refusal(400, f"request must hold id and since_ms, in op {op.get('op')}")


def _wanted(op: Op) -> tuple[int, int]:
    request = _request(op, needed=True)
    assert request is not None
    return request


def _own(bridge: Bridge, name: str, owner: str) -> Node | None:
    node = bridge.world.nodes.get(name)
    if node is not None and not is_marked(node, owner):
        raise Refusal(409, f"node {name} exists and does not carry the mark of owner {owner}")
    return node


def _queued(bridge: Bridge, request: tuple[int, int]) -> Item | None:
    item = bridge.world.queue.items.get(request[0])
    return item if item is not None and item.key == request else None


def _known(bridge: Bridge, name: str, owner: str) -> Known:
    known = bridge.known.get(name)
    if known is None:
        known = bridge.known[name] = Known(name, owner, Pad())
    return known


def _register(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    name, launcher = _text(op, "name"), _text(op, "launcher")
    if launcher not in ("websocket", "tcp", "ssh"):
        raise Refusal(400, f"launcher {launcher} is not known to bridge {VERSION}")
    request = _request(op, needed=False)
    node = _own(bridge, name, owner)
    labels = frozenset(lines_of(_list(op, "labels")))
    lines = _list(op, "lines")
    remote_fs = _text(op, "remote_fs") if node is None else ""
    check_name(name)
    known = _known(bridge, name, owner)
    if request is not None:
        bridge.dedicate(known, request)
    known.pad.add(lines)
    if node is None:
        node = Node(name, mark(owner, name), remote_fs, mode="EXCLUSIVE", websocket=launcher == "websocket")
        node.resize(1)
        node.labels_at_run_time = labels
        node.bound = True
        bridge.world.add_node(node)
    else:
        node.labels_at_run_time = labels
        node.bound = True
        bridge.world.changed(node)
    return {"secret": secret_of(name)}


def _adopt(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    name = _text(op, "name")
    node = _own(bridge, name, owner)
    if node is None:
        return {"exists": False, "secret": None}
    request = _request(op, needed=False)
    if name not in bridge.known:
        _known(bridge, name, owner).registered_ms = 0
    known = _known(bridge, name, owner)
    if op.get("started") is True:
        known.started = True
    if request is not None:
        bridge.dedicate(known, request)
    known.pad.add(_list(op, "lines"))
    if node.online and not known.online_ms:
        known.online_ms = now_ms()
    for executor in node.executors:
        if executor.work is not None:
            bridge.begin(known, executor.work)
    node.labels_at_run_time = frozenset(lines_of(_list(op, "labels")))
    node.bound = True
    bridge.world.changed(node)
    return {"exists": True, "secret": secret_of(name)}


def _give(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    name = _text(op, "name")
    node, known = _own(bridge, name, owner), bridge.known.get(name)
    if node is None or known is None:
        raise Refusal(410, f"node {name} is not known to the bridge")
    wanted = _wanted(op)
    if not node.online:  # the real one asks the agent itself
        raise Refusal(410, f"the agent on {name} does not answer")
    bridge.dedicate(known, wanted)
    bridge.world.offer(node)
    return {}


def _log(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    name = op.get("name")
    known = bridge.known.get(str(name)) if name is not None else None
    if known is not None and known.owner == owner:
        known.pad.add(_list(op, "lines"))
        return {}
    request = _request(op, needed=name is None)
    if request is not None:
        bridge.pad_of(request).add(_list(op, "lines"))
    return {}


def _bar(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    name = _text(op, "name")
    node, known = _own(bridge, name, owner), bridge.known.get(name)
    if known is not None:
        known.barred = True
    if node is not None:
        node.accepting = False
        bridge.world.nodes.refresh_free(node)
    return {}


def _remove(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    name = _text(op, "name")
    node, known = _own(bridge, name, owner), bridge.known.get(name)
    if known is not None and known.owner == owner:
        known.pad.add(_list(op, "lines"))
    if node is not None:
        bridge.world.interrupt_bodies(node)
        bridge.world.delete_node(node)
    if known is not None and known.owner == owner:
        bridge.forget(known)
    if op.get("credentials") is True:
        bridge_dialling.forget(bridge, owner, name)
    return {"existed": node is not None}


def others_serve(bridge: Bridge, owner: str, item: Item) -> bool:
    known = bridge.by_request.get(item.key)
    if known is not None and known.owner != owner and known.takes == item.key:
        return True  # another owner has made an agent for it
    """Whether a node that is not ours could serve the item."""
    nodes = bridge.world.nodes.matching(item.label)
    if item.label is None:
        nodes = [n for n in nodes if n.mode == "NORMAL"]
    return any(n.executors and not is_marked(n) for n in nodes)


def _explain(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    item = _queued(bridge, _wanted(op))
    return {"others": item is None or others_serve(bridge, owner, item)}


def _outcome(what: str, build_url: str | None = None) -> dict[str, Any]:
    return {"outcome": what, "build_url": build_url}


def _fail(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    request = _wanted(op)
    message, reason = _text(op, "message"), _text(op, "reason")
    item = _queued(bridge, request)
    if item is None:
        return _outcome("gone")
    if others_serve(bridge, owner, item):
        return _outcome("spared")
    pad = bridge.pad_of(request)
    told = _list(op, "lines")
    pad.add(told if any(message in str(line) for line in told) else [*told, f"{message} ({reason})"])
    world = bridge.world
    task: Any = item.task
    if task.kind == "pipeline":
        task.fail(message)
        world.cancel(item)
        return _outcome("step_failed", task.url)
    if not isinstance(task, Job) or item.phase is not Phase.BUILDABLE:
        world.cancel(item)
        return _outcome("cancelled")
    lines = pad.drain()
    world.queue.leave(item, None)
    build = task.new_build(item)
    item.executable = build
    bridge.on_left(item)
    for cause in item.causes:
        build.console.line(cause["shortDescription"])
    build.console.line("Running as SYSTEM")
    for line in lines:
        build.console.line(PREFIX + line)
    build.finish("NOT_BUILT")
    return _outcome("not_built", build.url)


def _dial(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    name = _text(op, "name")
    texts = {key: _text(op, key) for key in ("host", "host_key", "user", "private_key", "java")}
    for key in ("port", "timeout_s", "retries"):
        if not isinstance(op.get(key), int):
            raise Refusal(400, f"{key} must be a number, in op dial")
    for key in ("java_options", "prefix", "suffix"):
        if not isinstance(op.get(key), str):
            raise Refusal(400, f"{key} must be a text, in op dial")
    node = _own(bridge, name, owner)
    if node is None:
        raise Refusal(410, f"there is no node {name}")
    bridge_dialling.dial(bridge, node, owner, {**op, **texts})
    return {}


def _forget(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    return {"existed": bridge_dialling.forget(bridge, owner, _text(op, "name"))}


def _credentials(bridge: Bridge, owner: str, _op: Op) -> dict[str, Any]:
    return {"names": bridge_dialling.names(bridge, owner)}


def _launch_log(bridge: Bridge, owner: str, op: Op) -> dict[str, Any]:
    node = _own(bridge, _text(op, "name"), owner)
    lines = bytes(node.log).decode().splitlines() if node is not None else []
    most = op.get("most")
    return {"lines": lines[-max(0, min(200, most if isinstance(most, int) else 20)) :]}


_OPS: dict[str, Callable[[Bridge, str, Op], dict[str, Any]]] = {
    "register": _register,
    "adopt": _adopt,
    "give": _give,
    "log": _log,
    "bar": _bar,
    "remove": _remove,
    "fail": _fail,
    "explain": _explain,
    "dial": _dial,
    "forget": _forget,
    "credentials": _credentials,
    "launch_log": _launch_log,
}
