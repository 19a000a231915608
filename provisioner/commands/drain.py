"""`provisioner drain PROVIDER`: place nothing new there, also after a restart."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote, segment
from provisioner.commands.tables import print_json


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("drain", help="stop placing agents at a provider", allow_abbrev=False)
    parser.add_argument("provider", metavar="PROVIDER")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for it."""
    with Remote.of(args) as remote:
        provider = remote.post(f"providers/{segment(args.provider)}/drain")
    if args.json:
        print_json(provider)
        return 0
    there = f"{provider['agents']} of {provider['max_agents']}"
    print(f"{provider['name']} gets no new agents; those that are there stay ({there})")
    return 0
