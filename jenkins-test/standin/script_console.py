"""The script console: it knows the bridge's installation, a few one-line prints, and says so of all else."""

from __future__ import annotations

import ast
import base64
import json
import operator
import re
from collections.abc import Callable
from typing import Any

from standin.world import World

_BRIDGE = re.compile(r"PROVISIONER_BRIDGE_PARAMETERS = '([A-Za-z0-9+/=]*)'")
_PRINT = re.compile(r"^print(ln)?\s*\(?\s*(.+?)\s*\)?;?$")
_SUMS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


#: What administrators' scripts do most; Jenkins answers each with nothing.
_CALLS: dict[str, Callable[[World], None]] = {
    "jenkins.model.Jenkins.get().queue.maintain()": lambda _world: None,  # this queue needs no reminder
    "jenkins.model.Jenkins.get().doQuietDown(false, 0, null, false)": lambda world: world.quiet(True),
    "jenkins.model.Jenkins.get().doCancelQuietDown()": lambda world: world.quiet(False),
}


def run(world: World, script: str) -> str:
    """What the console would print; like Jenkins it answers an error with its stack trace."""
    bridge = _BRIDGE.search(script)
    if bridge:
        parameters = json.loads(base64.b64decode(bridge[1]))
        return f"PROVISIONER-BRIDGE {json.dumps(world.install_bridge(parameters))}\n"
    out = ""
    for number, line in enumerate(filter(None, map(str.strip, script.splitlines())), 1):
        if line in _CALLS:
            _CALLS[line](world)
            continue
        thrown = re.match(r"throw new (\w+)\(\s*[\"'](.*)[\"']\s*\)", line)
        if thrown:
            return f"{out}java.lang.{thrown[1]}: {thrown[2]}\n\tat Script1.run(Script1.groovy:{number})\n"
        printed = _PRINT.match(line)
        value = _value(printed[2]) if printed else None
        if printed is None or value is None:
            if line.count("(") != line.count(")"):
                return _not_compiled(number, line)
            return (
                f"{out}java.lang.UnsupportedOperationException: the stand-in runs no Groovy but the bridge and "
                f"simple prints; line {number} is neither: {line[:80]}\n\tat Script1.run(Script1.groovy:{number})\n"
            )
        out += value + ("\n" if printed[1] else "")
    return out


def _not_compiled(number: int, line: str) -> str:
    return (
        "org.codehaus.groovy.control.MultipleCompilationErrorsException: startup failed:\n"
        f"Script1.groovy: {number}: unexpected token:  @ line {number}, column {len(line) + 1}.\n   {line}\n"
        f"   {' ' * len(line)}^\n\n1 error\n\n"
        "\tat org.codehaus.groovy.control.ErrorCollector.failIfErrors(ErrorCollector.java:309)\n"
    )


def _value(text: str) -> str | None:
    """A literal or a sum of numbers; None for anything else."""
    try:
        return str(_number(ast.parse(text, mode="eval").body))
    except (SyntaxError, ValueError):
        return None


def _number(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _SUMS:
        return _SUMS[type(node.op)](_number(node.left), _number(node.right))
    raise ValueError
