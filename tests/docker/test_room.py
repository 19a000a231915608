"""Engines that are out of room: of addresses, and of disk. What they refuse is no failure, and leaves nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from provisioner.backends.docker.backend import DockerBackend
from provisioner.model.errors import NoRoom, Reason
from tests.contract.backend_rigs import BUSYBOX, DockerRig, run
from tests.second_engine import SecondEngine, why_not


@pytest.fixture
def tiny(rig: DockerRig, client: docker.APIClient) -> Iterator[str]:
    """A network with one address besides the gateway's."""
    pool = docker.types.IPAMPool(subnet="198.19.255.0/30")
    name = f"{rig.owner}-tiny"
    network = client.create_network(name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))["Id"]
    yield name
    client.remove_network(network)


async def test_a_network_without_a_free_address_is_want_of_room_until_one_is_free(rig: DockerRig, tiny: str) -> None:
    backend = DockerBackend(network=tiny)
    first, second = rig.order(), rig.order()
    ids, _ = await run(backend, first)
    with pytest.raises(NoRoom) as caught:
        await run(backend, second)
    assert caught.value.reason is Reason.NO_ADDRESS
    assert caught.value.lacks == "no address is free in its network"
    assert second.agent in caught.value.message
    await backend.stop(second.agent, {})
    assert rig.leftovers(second.agent) == []
    await backend.stop(first.agent, ids)
    third = rig.order()
    ids, _ = await run(backend, third)
    await backend.stop(third.agent, ids)
    await backend.close()


@pytest.fixture
def small_disk() -> Iterator[tuple[SecondEngine, Path]]:
    """An engine whose disk has little room, and a file that takes up the rest of it."""
    if reason := why_not():
        pytest.skip(reason)
    made = SecondEngine()
    data = made.folder / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(data)], check=True)
    try:
        made.start()
        made.load(BUSYBOX)
        yield made, data / "filler"
    finally:
        (data / "filler").unlink(missing_ok=True)
        made.remove()


async def test_a_full_disk_is_want_of_room_until_it_is_freed(
    rig: DockerRig, small_disk: tuple[SecondEngine, Path]
) -> None:
    engine, filler = small_disk
    backend = DockerBackend(endpoint=engine.endpoint, network="none")
    ids, _ = await run(backend, first := rig.order())  # the shared volumes are filled
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(1 << 12))
    with pytest.raises(NoRoom) as caught:
        await run(backend, second := rig.order())
    assert caught.value.reason is Reason.DISK_FULL
    assert caught.value.lacks == "its disk is full"
    filler.unlink()
    await backend.stop(second.agent, {})
    await backend.stop(first.agent, ids)
    ids, _ = await run(backend, third := rig.order())
    await backend.stop(third.agent, ids)
    await backend.close()
