"""`provisioner check`: everything that is wrong with the configuration, at once."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from provisioner.commands.options import Subparsers, add_config, add_json
from provisioner.commands.tables import plain
from provisioner.config import Examined, Settings, cautions, examine, missing_files, missing_secrets

if TYPE_CHECKING:
    from provisioner.sidecar.reaching import Reached


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("check", help="validate the configuration", allow_abbrev=False)
    add_config(parser)
    parser.add_argument("--connect", action="store_true", help="also reach every controller and provider")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every problem, or one line that there is none; then a line for everything that was reached."""
    examined = examine(args.config)
    if args.connect and (missing := (*missing_secrets(examined), *missing_files(examined))):
        in_order = tuple(sorted(missing, key=lambda finding: finding.line))
        examined = replace(examined, settings=None, findings=in_order)
    settings = examined.settings
    reached: Sequence[Reached] = ()
    if not args.json:
        _print(examined)
    if settings is not None and args.connect:
        reached = _reach(settings)
        if not args.json:
            for one in reached:
                print(plain(one), file=sys.stdout if one.ok else sys.stderr)
    if args.json:
        body = _as_json(examined)
        if args.connect:
            body["reached"] = [{"kind": r.kind, "name": r.name, "ok": r.ok, "text": r.text} for r in reached]
        print(json.dumps(body, indent=2))
    if settings is None:
        return 2
    return 0 if all(one.ok for one in reached) else 1


def _reach(settings: Settings) -> Sequence[Reached]:
    from provisioner.sidecar.reaching import reach_all  # noqa: PLC0415  (loads every backend; most checks need none)
    from provisioner.telemetry.logs import configure_logs  # noqa: PLC0415

    configure_logs(level="error", json_lines=False)
    return asyncio.run(reach_all(settings))


def _print(examined: Examined) -> None:
    settings = examined.settings
    if settings is None:
        for finding in examined.findings:
            print(finding, file=sys.stderr)
        return
    counts = ", ".join(
        f"{len(parts)} {name if len(parts) == 1 else plural}"
        for parts, name, plural in (
            (settings.controllers, "controller", "controllers"),
            (settings.providers, "provider", "providers"),
            (settings.templates, "template", "templates"),
        )
    )
    print(f"{examined.file}: ok, owner {settings.id}, {counts}")
    for caution in cautions(settings):
        print(f"{examined.file}: take care: {caution}", file=sys.stderr)


def _as_json(examined: Examined) -> dict[str, object]:
    return {
        "file": examined.file,
        "ok": examined.settings is not None,
        "problems": [
            {"line": finding.line, "path": finding.path, "message": finding.text} for finding in examined.findings
        ],
        "cautions": list(cautions(examined.settings)) if examined.settings is not None else [],
    }
