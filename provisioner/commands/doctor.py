"""`provisioner doctor`: everything that makes agents fail, tried one by one, with the fix."""

from __future__ import annotations

import argparse
import asyncio
import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from provisioner.commands.options import Subparsers, add_config, add_json
from provisioner.commands.tables import plain
from provisioner.config import load
from provisioner.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from provisioner.doctor.findings import Finding


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "doctor", help="everything that makes agents fail, tried one by one, with the fix", allow_abbrev=False
    )
    add_config(parser)
    parser.add_argument(
        "--read-only",
        action="store_true",
        help="make no node and start no instance (default: one of each template, for a moment)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print each finding as it comes; exit status 1 if something fails."""
    from provisioner.doctor.examination import Examination  # noqa: PLC0415  (loads every backend)

    settings = load(args.config)
    configure_logs(level="critical", json_lines=False)
    printer = _Printer(quiet=args.json)
    found = asyncio.run(Examination(settings, trials=not args.read_only, tell=printer.tell).run())
    counts = {verdict: sum(f.verdict == verdict for f in found) for verdict in ("ok", "warn", "fail")}
    if args.json:
        print(json.dumps({"findings": [asdict(f) for f in found], **counts}, indent=2, ensure_ascii=False))
    else:
        print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
    return int(counts["fail"] > 0)


class _Printer:
    """A heading for each subject, a line for each finding, and its fix below."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._subject = ""

    def tell(self, finding: Finding) -> None:
        if self._quiet:
            return
        if finding.subject != self._subject:
            print(f"{'' if not self._subject else chr(10)}{plain(finding.subject)}")
            self._subject = finding.subject
        print(f"  {finding.verdict:<4}  {finding.check:<16}  {plain(finding.text)}", flush=True)
        if finding.fix:
            print(textwrap.indent(f"do: {plain(finding.fix)}", " " * 26), flush=True)
