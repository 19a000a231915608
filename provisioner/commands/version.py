"""`provisioner version`."""

from __future__ import annotations

import argparse

from provisioner import __version__
from provisioner.commands.options import Subparsers, add_config


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("version", help="print the version", allow_abbrev=False)
    add_config(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:  # noqa: ARG001  (all verbs are called alike)
    """Print it."""
    print(f"provisioner {__version__}")
    return 0
