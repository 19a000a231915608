"""`provisioner cleanup`: the dirty/clean scheduler of long-lived nodes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from provisioner.cleanup.assembly import make_scheduler
from provisioner.cleanup.scheduler import Row, Scheduler, is_bad
from provisioner.commands.options import Subparsers, add_config, add_json
from provisioner.commands.tables import plain, print_table
from provisioner.config import Settings, load
from provisioner.model.errors import ConfigError, ControllerError, ProvisionerError
from provisioner.telemetry.logs import configure_logs


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "cleanup", help="the dirty/clean scheduler, also for a cron job or a Jenkins job", allow_abbrev=False
    )
    add_config(parser)
    parser.add_argument(
        "--once",
        action="store_true",
        help="end when every cleaning that is due has ended; exit status 1 if a node failed or is in quarantine",
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done now, and change nothing")
    parser.add_argument("--recover", metavar="NODE", help="bring a node back from quarantine, to be cleaned anew")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Work once, or until interrupted."""
    if args.recover and (args.once or args.dry_run):
        raise ConfigError("--recover only brings the node back; leave --once and --dry-run out")
    if args.json and not (args.once or args.dry_run):
        raise ConfigError("--json is for --once and --dry-run, which end with a report")
    settings = load(args.config)
    configure_logs(level="error", json_lines=False)
    scheduler = make_scheduler(settings)
    if args.recover:
        scheduler.recover(args.recover)
        print(f"{plain(args.recover)} is back; the next pass cleans it")
        return 0
    wanted = settings.cleanup
    nothing = f"no node of {wanted.controller} has the label {wanted.labels.cleanable}" if wanted is not None else ""
    if args.dry_run:
        return _report(scheduler.plan(), nothing=nothing, as_json=args.json)
    if args.once:
        # a job's console shows at once what is done
        return _report(scheduler.once(_quiet if args.json else _tell), nothing=nothing, as_json=args.json)
    return _for_ever(scheduler, settings)


def _for_ever(scheduler: Scheduler, settings: Settings) -> int:
    if settings.cleanup is None:
        raise ProvisionerError("there is nothing to clean up")
    while True:
        try:
            for row in scheduler.one_pass():
                if row.outcome:
                    _tell(row)
        except ControllerError as error:
            print(f"provisioner cleanup: {error.message}", file=sys.stderr, flush=True)
        time.sleep(settings.cleanup.interval_s)


def _tell(row: Row) -> None:
    print(f"{row.node}: {row.act}: {plain(row.reason)}: {plain(row.outcome)}", flush=True)


def _quiet(_row: Row) -> None:
    pass


def _report(rows: Sequence[Row], *, nothing: str, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"nodes": [asdict(row) for row in rows]}, indent=2, ensure_ascii=False))
    else:
        cells = [(row.node, row.state, row.act, row.outcome or None, row.reason) for row in rows]
        print_table(("NODE", "STATE", "ACT", "OUTCOME", "WHY"), cells, nothing=nothing)
    return int(any(is_bad(row) for row in rows))
