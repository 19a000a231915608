"""`provisioner delete AGENT`: have it removed."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote, segment
from provisioner.commands.tables import print_json


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("delete", help="remove an agent that runs no build", allow_abbrev=False)
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("--now", action="store_true", help="also while a build runs on it")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for it; the removal itself goes on by itself."""
    with Remote.of(args) as remote:
        agent = remote.delete(f"agents/{segment(args.agent)}", **({"now": "true"} if args.now else {}))
    if args.json:
        print_json(agent)
        return 0
    print(f"{agent['name']} {'is gone' if agent['state'] == 'removed' else 'is being removed'}")
    return 0
