"""`provisioner schema`: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import argparse
import json

from provisioner.commands.options import Subparsers, add_config
from provisioner.config import json_schema


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("schema", help="print the JSON Schema of the configuration", allow_abbrev=False)
    add_config(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:  # noqa: ARG001  (all verbs are called alike)
    """Print the schema; it is the same for every file."""
    print(json.dumps(json_schema(), indent=2))
    return 0
