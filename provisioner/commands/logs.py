"""`provisioner logs`: an agent's launch log."""

from __future__ import annotations

import argparse
import sys
import time

from provisioner.commands.options import Subparsers
from provisioner.commands.remote import Lost, Remote, add_remote, segment
from provisioner.commands.tables import plain

_AGAIN_S = 1.0
_MOST_TIMES = 30


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("logs", help="an agent's launch log", allow_abbrev=False)
    parser.add_argument("agent", metavar="AGENT")
    parser.add_argument("-f", "--follow", action="store_true", help="wait for more until the agent is gone")
    add_remote(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it, with the time of each line."""
    path = f"agents/{segment(args.agent)}/log"
    with Remote.of(args) as remote:
        if args.follow:
            _follow(remote, path)
        else:
            for line in remote.text(path).split("\n")[:-1]:
                print(plain(line))
    return 0


def _follow(remote: Remote, path: str) -> None:
    """Print as it grows; a sidecar that is started anew goes on where it was."""
    since, failed = 0, 0
    while True:
        try:
            for event in remote.events(path, follow="true", since=str(since)):
                failed = 0
                if event.kind == "end":
                    return
                since = int(str(event.data["n"])) + 1
                stamp = str(event.data["at"])[:23]
                print(f"{stamp}Z {plain(event.data['text'])}", flush=True)
            raise Lost(f"the sidecar at {remote.url} ended the log before the agent was gone")
        except Lost as lost:
            # the very first question must be answered; later the sidecar may be restarting
            failed += 1
            if since == 0 or failed > _MOST_TIMES:
                raise
            print(f"{lost.message}; trying again", file=sys.stderr)
            time.sleep(_AGAIN_S)
