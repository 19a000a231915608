"""Options that verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    # the class has no name that it could be asked for at run time
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001
else:
    Subparsers = object


def add_config(parser: argparse.ArgumentParser) -> None:
    """`-c FILE`; the default is found when the file is read."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="the configuration (default: $PROVISIONER_CONFIG, then provisioner.yaml)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON")
