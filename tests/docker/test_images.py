"""Images that are absent, forbidden, slow or wanted by many."""

from __future__ import annotations

import asyncio
import socket

import docker
import pytest

from provisioner.backends.catalogue import RegistryLogin, make_backend
from provisioner.backends.contract import Backend, InstanceState, Order, Progress
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import DockerRig, run
from tests.docker.fake_registry import Registry


async def refused(backend: Backend, order: Order) -> LaunchError:
    """Why it does not start; told at once, whatever a pull may take."""
    async with asyncio.timeout(60):
        with pytest.raises(LaunchError) as caught:
            await run(backend, order)
    return caught.value


async def test_absent_image_is_not_found(rig: DockerRig, registry: Registry) -> None:
    error = await refused(await rig.backend(), rig.order(image=f"{registry.host}/nothing:1"))
    assert error.reason is Reason.IMAGE_NOT_FOUND
    assert f"{registry.host}/nothing:1" in error.message


async def test_absent_image_is_not_found_in_a_real_registry(rig: DockerRig, debian_registry: str) -> None:
    error = await refused(await rig.backend(), rig.order(image=f"{debian_registry}/team/nothing:1"))
    assert error.reason is Reason.IMAGE_NOT_FOUND


@pytest.mark.parametrize("image", ["No/Such:1", "a b", "x@sha256:12", ":1"])
async def test_impossible_image_name_is_not_found(rig: DockerRig, image: str) -> None:
    error = await refused(await rig.backend(), rig.order(image=image))
    assert error.reason is Reason.IMAGE_NOT_FOUND


async def test_registry_that_is_down_is_the_worlds_fault(rig: DockerRig) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can have it
        error = await refused(await rig.backend(), rig.order(image=f"127.0.0.1:{probe.getsockname()[1]}/x:1"))
    assert error.reason is Reason.REGISTRY_ERROR
    assert error.retryable


async def test_registry_that_is_broken_is_the_worlds_fault(rig: DockerRig, registry: Registry) -> None:
    registry.broken = True
    error = await refused(await rig.backend(), rig.order(image=registry.image))
    assert error.reason is Reason.REGISTRY_ERROR


async def test_absent_image_that_may_never_be_pulled_is_not_found(rig: DockerRig, registry: Registry) -> None:
    backend = await rig.backend()
    order = rig.order(image=registry.image, pull="never")
    assert registry.image in (await backend.verify(order))[0]
    assert (await refused(backend, order)).reason is Reason.IMAGE_NOT_FOUND
    assert registry.layers_served == 0


async def test_closed_registry_without_and_with_the_right_login(rig: DockerRig, registry: Registry) -> None:
    registry.login = ("ci", "open sesame")
    error = await refused(await rig.backend(), rig.order(image=registry.image))
    assert error.reason is Reason.IMAGE_DENIED
    for password, right in (("wrong", False), ("open sesame", True)):
        logins = [RegistryLogin(host=registry.host, username="ci", password=password)]
        backend = make_backend(rig.provider, registries=logins)
        order = rig.order(image=registry.image)
        if right:
            await run(backend, order)
        else:
            error = await refused(backend, order)
            assert error.reason is Reason.IMAGE_DENIED
            assert password not in error.message
        await backend.stop(order.agent, {})
        await backend.close()
    assert registry.layers_served == 1


async def test_many_starts_share_one_pull_and_each_hears_of_it(
    rig: DockerRig, registry: Registry, client: docker.APIClient
) -> None:
    backend = await rig.backend()
    registry.blob_may_go.clear()
    orders = [rig.order(image=registry.image) for _ in range(4)]
    heard: list[list[str]] = [[] for _ in orders]

    async def follow(order: Order, lines: list[str]) -> None:
        async for step in backend.start(order):
            if isinstance(step, Progress):
                lines.append(step.text)  # noqa: PERF401  (it is read while it grows)

    starts = [asyncio.create_task(follow(order, lines)) for order, lines in zip(orders, heard, strict=True)]
    async with asyncio.timeout(20):
        while not all(any("MB" in line for line in lines) for lines in heard):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    registry.blob_may_go.set()
    await asyncio.gather(*starts, return_exceptions=True)
    assert registry.layers_served == 1
    assert client.images(registry.image)
    for lines in heard:
        assert lines[-2].startswith(f"pulled {registry.image} in ")


async def test_slow_pull_delays_neither_stop_nor_another_start(rig: DockerRig, registry: Registry) -> None:
    backend = await rig.backend()
    other = rig.order()
    ids, _ = await run(backend, other)
    registry.blob_may_go.clear()
    starts = [asyncio.create_task(run(backend, rig.order(image=registry.image))) for _ in range(20)]
    await asyncio.sleep(0.5)
    async with asyncio.timeout(10):
        await backend.stop(other.agent, ids)
        third = rig.order()
        ids, _ = await run(backend, third)
        assert (await backend.status(third.agent, ids)).state is InstanceState.RUNNING
    assert not any(start.done() for start in starts)
    for start in starts:
        start.cancel()
    await asyncio.gather(*starts, return_exceptions=True)


async def test_pull_that_takes_too_long_is_told_and_given_up(
    rig: DockerRig, registry: Registry, client: docker.APIClient
) -> None:
    backend = await rig.backend()
    registry.blob_may_go.clear()
    error = await refused(backend, rig.order(image=registry.image, pull_timeout_s=1.0))
    assert error.reason is Reason.PULL_TIMEOUT
    registry.blob_may_go.set()
    await asyncio.sleep(1)
    assert not client.images(registry.image)  # the engine gave it up, too


async def test_stop_ends_a_start_that_waits_for_its_pull(rig: DockerRig, registry: Registry) -> None:
    backend = await rig.backend()
    registry.blob_may_go.clear()
    order = rig.order(image=registry.image)
    starting = asyncio.create_task(refused(backend, order))
    await asyncio.sleep(0.5)
    await backend.stop(order.agent, {})
    async with asyncio.timeout(5):
        assert (await starting).reason is Reason.CANCELLED


async def test_present_image_is_pulled_again_only_if_told(rig: DockerRig, registry: Registry) -> None:
    backend = await rig.backend()
    await run(backend, rig.order(image=registry.image))
    registry.broken = True
    await run(backend, rig.order(image=registry.image, pull="missing"))
    always = rig.order(image=registry.image, pull="always")
    assert (await refused(backend, always)).reason is Reason.REGISTRY_ERROR
