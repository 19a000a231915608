"""`provisioner version`."""

from __future__ import annotations

import argparse

from provisioner import __version__
from provisioner.commands.options import Subparsers, add_config, add_json
from provisioner.commands.tables import print_json


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("version", help="print the version", allow_abbrev=False)
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    if args.json:
        print_json({"version": __version__})
    else:
        print(f"provisioner {__version__}")
    return 0
