"""`provisioner orphans`: what carries our mark and belongs to no agent."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote
from provisioner.commands.tables import age, print_json, print_table, rows_of


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("orphans", help="what carries our mark and belongs to no agent", allow_abbrev=False)
    parser.add_argument("--delete", action="store_true", help="remove now what two passes in a row saw")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print them; with --delete what was removed, and what stays for the next passes."""
    with Remote.of(args) as remote:
        body = remote.delete("orphans") if args.delete else remote.get("orphans")
    if args.json:
        print_json(body)
    elif args.delete:
        for orphan in rows_of(body, "removed"):
            print(f"removed {orphan['kind']} {orphan['id']} at {orphan['where']}")
        _table(body, "left", nothing="nothing is left")
    else:
        _table(body, "orphans", nothing="no orphans")
    return 0


def _table(body: dict[str, object], key: str, *, nothing: str) -> None:
    rows = [
        (o["kind"], o["where"], "-" if o["age_s"] is None else age(o["age_s"]), o["passes"], o["id"], o["reason"])
        for o in rows_of(body, key)
    ]
    print_table(("KIND", "WHERE", "AGE", "SEEN", "ID", "REASON"), rows, nothing=nothing)
