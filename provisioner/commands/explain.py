"""`provisioner explain`: why a build gets an agent, waits for one, or gets none."""

from __future__ import annotations

import argparse

from provisioner.commands.options import Subparsers, add_json
from provisioner.commands.remote import Remote, add_remote
from provisioner.commands.tables import plain, print_json


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("explain", help="why a build waits, or who would serve it", allow_abbrev=False)
    parser.add_argument("subject", metavar="QUEUE_ID|'LABEL EXPRESSION'", help="a number is a queue id")
    parser.add_argument("--controller", metavar="NAME", help="the controller, where several have that queue id")
    parser.add_argument("--job", metavar="FULL_NAME", help="with a label expression: the job that asks for it")
    add_remote(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the outcome, then a line for each template."""
    is_item = args.subject.isascii() and args.subject.isdigit()
    query = {"item" if is_item else "label": args.subject}
    query |= {name: value for name, value in (("controller", args.controller), ("job", args.job)) if value}
    with Remote.of(args) as remote:
        body = remote.get("explain", **query)
    if args.json:
        print_json(body)
    else:
        lines = body["lines"]
        for line in lines if isinstance(lines, list) else ():
            print(plain(line))
    return 0
