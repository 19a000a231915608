"""`provisioner loan`: lend a static node to another controller, take it back."""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from provisioner.cleanup.assembly import make_scheduler
from provisioner.cleanup.state import NodeState
from provisioner.commands.options import Subparsers, add_config, add_json
from provisioner.commands.tables import plain, print_table
from provisioner.config import Settings, load
from provisioner.config.durations import parse_duration
from provisioner.loans.book import LoanBook, Look, Row, failed, two_controllers
from provisioner.loans.lending import Lending, LoanError, Wish
from provisioner.loans.marks import told_time
from provisioner.model.errors import ConfigError, ControllerError
from provisioner.telemetry.logs import configure_logs

_ENDS = {NodeState.CLEAN, NodeState.QUARANTINED, NodeState.HELD, NodeState.SKIPPED}


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "loan",
        help="lend a static node to another controller, take it back",
        description="Without a node: all loans. --once does what is due for them, as the sidecar does.",
        allow_abbrev=False,
    )
    add_config(parser)
    parser.add_argument("node", nargs="?", metavar="NODE", help="name of the node at the lender")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--to", metavar="CONTROLLER", help="lend it to this controller of the configuration")
    what.add_argument("--return", dest="back", action="store_true", help="take it back")
    what.add_argument("--once", action="store_true", help="do what is due for all loans; for a cron job")
    parser.add_argument(
        "--from", dest="lender", metavar="CONTROLLER", help="the lender, if several have a node of that name"
    )
    parser.add_argument("--labels", metavar='"A B"', help="its labels at the borrower (default: those at the lender)")
    parser.add_argument("--for", dest="lease", metavar="TIME", help="such as 8h (default: `loans.lease`)")
    parser.add_argument("--reason", default="", help="for people; shown on the node's page")
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "--wait", metavar="TIME", help="wait at most so long for builds that run on it (default: until they end)"
    )
    waiting.add_argument("--no-wait", action="store_true", help="refuse if a build runs on it")
    parser.add_argument("--now", action="store_true", help="with --return: end the borrower's builds")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Lend, take back, or tell."""
    _check(args)
    settings = load(args.config)
    two_controllers(settings)
    _check_controllers(args, settings)
    configure_logs(level="error", json_lines=False)
    book = LoanBook(settings)
    try:
        if args.to:
            return _lend(args, settings, book)
        if args.back:
            return _take_back(args, settings, book)
        rows = book.settle() if args.once else None
        look = book.look()
        return _tell_all(args, look, book.rows(look) if rows is None else rows)
    finally:
        book.close()


def _check(args: argparse.Namespace) -> None:
    """No option is taken that means nothing.

    Raises:
        ConfigError: wrong usage.
    """
    if (args.to or args.back) and not args.node:
        raise ConfigError("name the node: `provisioner loan NODE --to CONTROLLER`, `provisioner loan NODE --return`")
    if args.once and args.node:
        raise ConfigError(f"--once does what is due for all loans; leave {args.node} out")
    lends, returns = bool(args.to), bool(args.back)
    rules = (
        ("--from", args.lender, "--to or --return", lends or returns),
        ("--reason", args.reason, "--to or --return", lends or returns),
        ("--wait", args.wait, "--to or --return", lends or returns),
        ("--no-wait", args.no_wait, "--to or --return", lends or returns),
        ("--labels", args.labels is not None, "--to", lends),
        ("--for", args.lease, "--to", lends),
        ("--now", args.now, "--return", returns),
    )
    for option, given, needs, there in rules:
        if given and not there:
            raise ConfigError(f"{option} means nothing without {needs}; nothing was done")
    if _duration(args.lease, "--for") == 0:
        raise ConfigError(f"--for {args.lease} is no time to lend anything; write more than 0, such as 8h")


def _check_controllers(args: argparse.Namespace, settings: Settings) -> None:
    """The controllers that are named are there.

    Raises:
        ConfigError: one is not.
    """
    names = [controller.name for controller in settings.controllers]
    for option, name in (("--to", args.to), ("--from", args.lender)):
        if name and name not in names:
            raise ConfigError(f"{option} {name} is none of the controllers; write one of {', '.join(names)}")


def _lend(args: argparse.Namespace, settings: Settings, book: LoanBook) -> int:
    wish = Wish(
        node=args.node,
        to=args.to,
        lender=args.lender,
        labels=tuple(args.labels.split()) if args.labels is not None else None,
        lease_s=_duration(args.lease, "--for"),
        by=f"{_user()}@{socket.gethostname()}",
        why=args.reason,
    )
    lending = Lending(settings, book, _quiet if args.json else _tell)
    try:
        row = lending.lend(wish, wait_s=_wait_s(args))
    except KeyboardInterrupt:
        print(f"interrupted; `provisioner loan {args.node} --return` undoes what was begun", flush=True)
        raise
    if args.json:
        return _report((row,), as_json=True)
    until = f" until {told_time(row.until_s)}" if row.until_s is not None else ""
    print(f"{plain(row.node)} of {row.lender} serves {row.to} as {row.loan}{until}")
    return 0


def _take_back(args: argparse.Namespace, settings: Settings, book: LoanBook) -> int:
    tell = _quiet if args.json else _tell
    wait_s = _wait_s(args)
    lender = Lending(settings, book, tell).take_back(
        args.node, args.lender, now=args.now, wait_s=wait_s, why=args.reason or f"taken back by {_user()}"
    )
    if lender is None:
        tell(f"{args.node} is on its way back; the sidecar, or `provisioner loan --once`, goes on with it")
        if args.json:
            _report(tuple(row for row in book.rows(book.look()) if row.node == args.node), as_json=True)
        return 1
    state = _cleaned(args.node, lender, settings, tell) if wait_s != 0 else None
    if args.json:
        print(json.dumps({"node": args.node, "lender": lender, "back": True, "state": state}, indent=2))
    else:
        print(f"{plain(args.node)} is back at {lender}" + (f", {state}" if state else ""))
    return 0 if state in {None, NodeState.CLEAN} else 1


def _cleaned(node: str, lender: str, settings: Settings, tell: object) -> NodeState | None:
    """See it through its cleaning; None if nobody cleans it."""
    if settings.cleanup is None or settings.cleanup.controller != lender:
        return None
    said = None
    try:
        for rows in make_scheduler(settings).passes(answered=True):
            row = next((row for row in rows if row.node == node), None)
            if row is None:
                return None
            if row.reason != said and callable(tell):
                said = row.reason
                tell(f"{node}: {row.state}: {row.reason}")
            if row.state in _ENDS and not row.outcome:
                return row.state
    except ControllerError as error:
        raise LoanError(f"{node} is back at {lender}; its cleaning cannot be followed: {error.message}") from error
    return None


def _wait_s(args: argparse.Namespace) -> float | None:
    return 0.0 if args.no_wait else _duration(args.wait, "--wait")


def _duration(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise ConfigError(f"{option} {text} {error}") from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"  # a container whose user has no name


def _tell(line: str) -> None:
    print(plain(line), flush=True)


def _quiet(_line: str) -> None:
    pass


def _tell_all(args: argparse.Namespace, look: Look, rows: Sequence[Row]) -> int:
    nothing = "nothing is lent"
    if args.node is not None:
        rows = tuple(row for row in rows if row.node == args.node)
        nothing = f"{plain(args.node)} is not lent"
        if not (rows or look.unknown or any(args.node in view.nodes for view in look.views.values())):
            raise LoanError(f"no node {args.node} is at {' or '.join(look.views)}")
    return _report(rows, as_json=args.json, nothing=nothing, unknown=look.unknown)


def _report(
    rows: Sequence[Row], *, as_json: bool, nothing: str = "nothing is lent", unknown: Mapping[str, str] | None = None
) -> int:
    unknown = unknown or {}
    if as_json:
        told = {"loans": [asdict(row) for row in rows], "unknown": dict(unknown)}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        cells = [
            (
                row.node,
                row.lender,
                row.to,
                row.state,
                None if row.until_s is None else told_time(row.until_s),
                row.loan,
                row.outcome if row.failed else row.reason,
            )
            for row in rows
        ]
        if unknown:
            nothing = f"no loan is known, but nothing is known of {', '.join(unknown)}"
        print_table(("NODE", "LENT BY", "TO", "STATE", "UNTIL", "AS", "WHY"), cells, nothing=nothing)
        sys.stdout.flush()
        for problem in unknown.values():
            print(f"provisioner loan: {problem}", file=sys.stderr)
    return int(bool(unknown) or failed(rows))
