"""agent.jar as a volume of the engine, shared by all containers and named by its content."""

from __future__ import annotations

import hashlib

from provisioner.backends.contract import Order
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.container import JAR_AT, marks
from provisioner.backends.docker.shared import Shared, SharedVolumes

#: The date of the file, always the same, since prepared class data fits only the jar with the date that it was made of.
_MTIME = 315532800


def ensure_jar(volumes: SharedVolumes, order: Order) -> Shared:
    """A volume that holds the order's agent.jar. Blocks.

    Raises:
        RefusedError: the engine's own words.
        LaunchError: provider_unreachable, or another sidecar's filling does not end.
    """
    path = f"{JAR_AT}/agent.jar"
    shared = Shared(
        name=f"jenkins-provisioner-jar-{hashlib.sha256(order.agent_jar).hexdigest()[:32]}", kind="agent.jar", at=JAR_AT
    )

    def full(holder: str) -> bool:
        # it is full only at its full size, since it is written from front to end
        return volumes.size(holder, path) == len(order.agent_jar)

    def fill(holder: str) -> None:
        archive = Archive()
        archive.file(path, order.agent_jar, uid=0, mode=0o444, mtime=_MTIME)
        volumes.put(holder, archive.content())

    # the filler carries the agent's mark, so that the agent's `stop` removes it if we die here
    volumes.ensure(shared, image=order.image or "", labels=marks(order.owner, order.agent), full=full, fill=fill)
    return shared
