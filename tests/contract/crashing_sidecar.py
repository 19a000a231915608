"""A sidecar that starts one order and dies of SIGKILL: after so many yields, or as soon as the order runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as pytest has it

from provisioner.backends.catalogue import make_backend
from provisioner.backends.contract import Checkpoint, Order, SecretFile
from tests.contract.backend_rigs import Provider


async def main() -> None:
    job = json.load(sys.stdin)
    order = job["order"]
    order["command"] = tuple(order["command"])
    order["files"] = tuple(SecretFile(name=name, content=text.encode()) for name, text in order["files"].items())
    order["agent_jar"] = order["agent_jar"].encode()
    backend = make_backend(Provider(**job["provider"]))
    await backend.open()
    seen = 0
    if job["steps"] != 0:
        async for step in backend.start(Order(**order)):
            key, value = (step.key, step.value) if isinstance(step, Checkpoint) else ("progress", step.text)
            print(json.dumps({"key": key, "value": value}), flush=True)
            seen += 1
            if seen == job["steps"]:
                break_off()
    break_off()


def break_off() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main())
