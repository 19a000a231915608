"""`provisioner demo`: a controller, the provisioner and a few builds, from the project's checkout."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from provisioner.commands.options import Subparsers, add_config
from provisioner.model.errors import ProvisionerError

_PROGRAM = Path(__file__).resolve().parents[2] / "jenkins-test" / "demo"


def add(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "demo", help="run a stand-in controller, the provisioner and a few builds", allow_abbrev=False
    )
    add_config(parser)  # as every verb does; the demo writes a configuration of its own
    parser.add_argument("--backend", choices=("process", "docker"), help="default: $BACKEND, then process")
    parser.add_argument(
        "--jenkins",
        action="store_true",
        help="a real controller instead of the stand-in, with the war of $JENKINS_WAR or of the cache; "
        "with $JENKINS_WAR it is the default",
    )
    parser.add_argument(
        "--image",
        help="backend docker: image for the agents, with a shell and Python 3 (Java 17 for a real controller); "
        "default: $DEMO_IMAGE, then one made from this machine's own",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Become the demo: signals are then its own from the first moment.

    Raises:
        ProvisionerError: this is an installed package, without the demo.
    """
    if not (_PROGRAM / "__main__.py").is_file():
        raise ProvisionerError(
            "the demo is no part of the installed package; clone the project and run `make demo` in it"
        )
    words = [f"--backend={args.backend}"] if args.backend else []
    words += ["--jenkins"] if args.jenkins else []
    words += [f"--image={args.image}"] if args.image else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(_PROGRAM), *words])  # noqa: S606  (no shell wanted)
