"""`python -m provisioner.gateway FOLDER --listen HOST:PORT`: the gateway, as the sidecar starts it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from provisioner.gateway.process import AlreadyThereError, GatewayProcess
from provisioner.model.errors import ProvisionerError
from provisioner.telemetry.logs import configure_logs

ALREADY_THERE = 3


def main(words: list[str]) -> int:
    """Work until nobody needs it; the exit status."""
    parser = argparse.ArgumentParser(prog="provisioner.gateway", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--listen", required=True)
    args = parser.parse_args(words)
    host, _, port = args.listen.rpartition(":")
    configure_logs(level="info", json_lines=True)
    try:
        asyncio.run(GatewayProcess(args.folder, host=host.strip("[]"), port=int(port)).run())
    except AlreadyThereError:
        return ALREADY_THERE
    except ProvisionerError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
