"""`provisioner resume PROVIDER`: end a drain."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote, segment
from provisioner.commands.tables import print_json


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("resume", help="place agents at a provider again", allow_abbrev=False)
    parser.add_argument("provider", metavar="PROVIDER")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for it."""
    with Remote.of(args) as remote:
        provider = remote.post(f"providers/{segment(args.provider)}/resume")
    if args.json:
        print_json(provider)
        return 0
    print(f"{provider['name']} gets agents again ({provider['agents']} of {provider['max_agents']})")
    return 0
