"""`provisioner hold AGENT`: keep it after its build, for debugging."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote, segment
from provisioner.commands.tables import print_json
from provisioner.config.durations import parse_duration
from provisioner.model.errors import ConfigError


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("hold", help="keep an agent after its build, for debugging", allow_abbrev=False)
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("--for", dest="how_long", metavar="DURATION", default="2h", help="default: 2h")
    parser.add_argument("--reason", default="", help="shown in the launch log and on the dashboard")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for it."""
    try:
        parse_duration(args.how_long)
    except ValueError as error:
        raise ConfigError(f"--for {args.how_long} {error}") from error
    with Remote.of(args) as remote:
        agent = remote.post(f"agents/{segment(args.agent)}/hold", {"for": args.how_long, "reason": args.reason})
    if args.json:
        print_json(agent)
        return 0
    until = str(agent["held_until"])[:19].replace("T", " ")
    print(f"{agent['name']} is held until {until} UTC; `provisioner release` ends that")
    return 0
