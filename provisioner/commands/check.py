"""`provisioner check`: everything that is wrong with the configuration, at once."""

from __future__ import annotations

import argparse
import json
import sys

from provisioner.commands.options import Subparsers, add_config, add_json
from provisioner.config import Examined, examine


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("check", help="validate the configuration", allow_abbrev=False)
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every problem, or one line that there is none."""
    examined = examine(args.config)
    if args.json:
        print(json.dumps(_as_json(examined), indent=2))
    elif examined.settings is None:
        for finding in examined.findings:
            print(finding, file=sys.stderr)
    else:
        settings = examined.settings
        counts = ", ".join(
            f"{len(parts)} {name if len(parts) == 1 else plural}"
            for parts, name, plural in (
                (settings.controllers, "controller", "controllers"),
                (settings.providers, "provider", "providers"),
                (settings.templates, "template", "templates"),
            )
        )
        print(f"{examined.file}: ok, owner {settings.id}, {counts}")
    return 0 if examined.settings is not None else 2


def _as_json(examined: Examined) -> dict[str, object]:
    return {
        "file": examined.file,
        "ok": examined.settings is not None,
        "problems": [
            {"line": finding.line, "path": finding.path, "message": finding.text} for finding in examined.findings
        ],
    }
