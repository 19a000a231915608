"""`provisioner delete AGENT`: have it removed."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers
from provisioner.commands.remote import Remote, add_remote, segment


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("delete", help="remove an agent that runs no build", allow_abbrev=False)
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("--now", action="store_true", help="also while a build runs on it")
    add_remote(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for it; the removal itself goes on by itself."""
    with Remote.of(args) as remote:
        agent = remote.delete(f"agents/{segment(args.agent)}", **({"now": "true"} if args.now else {}))
    print(f"{agent['name']} {'is gone' if agent['state'] == 'removed' else 'is being removed'}")
    return 0
