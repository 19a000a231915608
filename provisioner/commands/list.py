"""`provisioner list`: what the running sidecar knows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote
from provisioner.commands.tables import age, print_json, print_table, rows_of

_Body = Mapping[str, object]


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("list", help="what the running sidecar knows", allow_abbrev=False)
    parser.add_argument("what", nargs="?", choices=tuple(_TABLES), default="agents", help="default: agents")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one table."""
    with Remote.of(args) as remote:
        body = remote.get(args.what, **({"ping": "true"} if args.what == "providers" else {}))
    if args.json:
        print_json(body)
    else:
        _TABLES[args.what](body)
    return 0


def _agents(body: _Body) -> None:
    rows = [
        (a["name"], _state(a), a["provider"], age(a["age_s"]), a["job"] or "standby") for a in rows_of(body, "agents")
    ]
    print_table(("AGENT", "STATE", "PROVIDER", "AGE", "JOB"), rows, nothing="no agents")


def _state(agent: _Body) -> str:
    going = agent["target"] == "gone" and agent["state"] != "removing"
    return f"{agent['state']}{', held' if agent['held_until'] else ''}{', unwanted' if going else ''}"


def _requests(body: _Body) -> None:
    rows = [
        (r["queue_id"], r["controller"], r["state"], age(r["age_s"]), r["template"], r["job"], r["label"], _waits(r))
        for r in rows_of(body, "requests")
    ]
    heads = ("ITEM", "CONTROLLER", "STATE", "AGE", "TEMPLATE", "JOB", "LABEL", "AGENT, OR WAITS FOR")
    print_table(heads, rows, nothing="no requests")
    if body.get("unserved"):
        print(f"{body['unserved']} more in the queue that no template serves")


def _waits(request: _Body) -> object:
    reasons = request["waits_for"]
    return "; ".join(map(str, reasons)) if isinstance(reasons, list) and reasons else request["agent"]


def _providers(body: _Body) -> None:
    rows = [
        (
            p["name"],
            p["backend"],
            str(p["state"]).replace("_", " "),
            f"{p['agents']}/{p['max_agents']}",
            _says(p),
        )
        for p in rows_of(body, "providers")
    ]
    print_table(("PROVIDER", "BACKEND", "STATE", "AGENTS", "SAYS"), rows, nothing="no providers")


def _says(provider: _Body) -> object:
    paused = [
        f"template {row['template']} is {str(row['state']).replace('_', ' ')}" + (f" until {until}" if until else "")
        for row in rows_of(provider, "templates_paused")
        for until in [row["until"]]
    ]
    own = str(provider["reason"] or provider.get("refuses") or provider.get("ping") or "")
    return "; ".join([*([own] if own else []), *paused])


def _templates(body: _Body) -> None:
    rows = [
        (
            t["name"],
            t["priority"],
            f"{t['agents']}/{t['max_agents'] or '-'}",
            t["providers"],
            t["labels"],
        )
        for t in rows_of(body, "templates")
    ]
    print_table(("TEMPLATE", "PRIORITY", "AGENTS", "PROVIDERS", "LABELS"), rows, nothing="no templates")


_TABLES: Mapping[str, Callable[[_Body], None]] = {
    "agents": _agents,
    "requests": _requests,
    "providers": _providers,
    "templates": _templates,
}
