"""Holds the channel of an instance until it is killed; tells what the command says first."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as pytest has it

from provisioner.backends.catalogue import make_backend
from tests.contract.backend_rigs import Provider


async def main() -> None:
    job = json.loads(sys.stdin.readline())
    backend = make_backend(Provider(**job["provider"]))
    channel = await backend.open_channel(job["agent"], job["ids"])
    sys.stdout.buffer.write(await channel.read())
    sys.stdout.buffer.flush()
    await asyncio.sleep(600)


asyncio.run(main())
