"""The command line: one module per verb, imported when the verb is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from provisioner import __version__
from provisioner.model.errors import ConfigError, ProvisionerError

DONE = 0
FAILED = 1
WRONG_USAGE = 2

#: Each module has `run(args)`, which gives the exit status, and `add(subparsers)`, which makes it the parser's `run`.
VERBS: Mapping[str, str] = {
    "run": "provisioner.commands.run",
    "check": "provisioner.commands.check",
    "doctor": "provisioner.commands.doctor",
    "list": "provisioner.commands.list",
    "explain": "provisioner.commands.explain",
    "logs": "provisioner.commands.logs",
    "hold": "provisioner.commands.hold",
    "release": "provisioner.commands.release",
    "delete": "provisioner.commands.delete",
    "drain": "provisioner.commands.drain",
    "resume": "provisioner.commands.resume",
    "orphans": "provisioner.commands.orphans",
    "bridge": "provisioner.commands.bridge",
    "cleanup": "provisioner.commands.cleanup",
    "loan": "provisioner.commands.loan",
    "demo": "provisioner.commands.demo",
    "schema": "provisioner.commands.schema",
    "version": "provisioner.commands.version",
}


def parser(verbs: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of these verbs; imports their modules."""
    top = argparse.ArgumentParser(
        prog="provisioner",
        description="One fresh agent for every Jenkins build.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage or configuration.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"provisioner {__version__}")
    subparsers = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in verbs.values():
        importlib.import_module(module).add(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # the one verb's module is enough; all of them are for the help and for telling a wrong verb
    asked = words[0] if words else ""
    try:
        args = parser({asked: VERBS[asked]} if asked in VERBS else VERBS).parse_args(words)
    except SystemExit as end:  # argparse has said it all
        return end.code if isinstance(end.code, int) else WRONG_USAGE
    try:
        status = args.run(args)
        sys.stdout.flush()
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return WRONG_USAGE
    except ProvisionerError as error:
        print("\n".join((f"provisioner {args.verb}: {error.message}", *error.tail)), file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # the reader went away (`| head`); the interpreter's own flush at exit would complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return int(status)
