"""`python -m provisioner.sshd --port N --host-key FILE --authorized-keys FILE --root DIR -- AGENT COMMAND…`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from provisioner.sshd.server import Options, serve


def main() -> int:
    """Run until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="sshd")
    parser.add_argument("--port", type=int, required=True)
    for name in ("--host-key", "--authorized-keys", "--root"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    options = Options(args.port, args.host_key, args.authorized_keys, args.root, tuple(args.command))
    try:
        asyncio.run(_until_told(options))
    except OSError as error:
        print(f"sshd: {error}", file=sys.stderr)
        return 1
    return 0


async def _until_told(options: Options) -> None:
    serving = asyncio.ensure_future(serve(options))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    sys.exit(main())
