"""`provisioner release AGENT`: end a hold."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote, segment
from provisioner.commands.tables import print_json


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("release", help="end the hold of an agent", allow_abbrev=False)
    parser.add_argument("agent", metavar="AGENT")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for it."""
    with Remote.of(args) as remote:
        agent = remote.post(f"agents/{segment(args.agent)}/release")
    if args.json:
        print_json(agent)
        return 0
    print(f"{agent['name']} is not held; it goes when its build is over")
    return 0
