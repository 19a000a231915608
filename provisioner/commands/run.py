"""`provisioner run`: the sidecar."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from provisioner.commands.options import Subparsers, add_config
from provisioner.config import load_to_run
from provisioner.sidecar.process import Sidecar
from provisioner.telemetry.logs import configure_logs


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("run", help="run the sidecar", allow_abbrev=False)
    add_config(parser)
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: info"
    )
    parser.add_argument("--log-format", choices=("auto", "json", "text"), default="auto", help="default: auto")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Work until SIGTERM; ends the process."""
    settings = load_to_run(args.config)
    configure_logs(level=args.log_level, json_lines={"auto": None, "json": True, "text": False}[args.log_format])
    asyncio.run(Sidecar(args.config, settings).run())
    # A call that an engine does not answer cannot be ended, and the interpreter would wait for its thread;
    # every act is on disk.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
