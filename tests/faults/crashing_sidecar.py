"""`provisioner run` that kills itself (SIGKILL) at the point that `DIE_AT` names, and writes every point it passes.

The product knows nothing of this: the wrappers of `mortal` are put around its records, controllers and backends
before it starts.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from provisioner.commands import main as program
from provisioner.config import Settings
from provisioner.lifecycle.clock import Clock
from provisioner.lifecycle.desk import Desk
from provisioner.sidecar import assembly, process
from tests.faults.mortal import Death, Life, MortalBackend, MortalController, MortalStore


def main() -> int:
    die_at = int(os.environ["DIE_AT"])
    points = os.open(os.environ["POINTS_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    passed = -1

    def reaper(point: str) -> Death:
        nonlocal passed
        passed += 1
        os.write(points, f"{point}\n".encode())
        if passed == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return Death.NOT

    life = Life(reaper)
    plain = assembly.assemble

    def store(*args: Any) -> MortalStore:
        return MortalStore(life, *args)

    def assemble(settings: Settings, clock: Clock) -> Desk:
        desk = plain(settings, clock)
        for controller in desk.controllers.values():
            controller.port = MortalController(life, controller.port)
        for provider in desk.providers.values():
            provider.backend = MortalBackend(life, provider.backend)
        return desk

    vars(assembly).update(Store=store)
    vars(process).update(assemble=assemble)
    return program.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
