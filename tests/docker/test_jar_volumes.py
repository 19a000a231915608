"""Jars of earlier agents, copied by each agent from a volume before its Java starts, in any image and as any user."""

from __future__ import annotations

import asyncio
import io
import tarfile
import uuid
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from provisioner.backends.contract import Order
from provisioner.backends.docker import jar_volumes
from provisioner.backends.docker.backend import DockerBackend
from provisioner.backends.docker.fetched import checksum
from provisioner.backends.docker.jar_volumes import JARS_AT, KIND
from tests.contract.backend_rigs import DockerRig, output, run

ROOT = "/home/jenkins/agent"
JARS = f"{ROOT}/remoting/jarCache"
MUSL = "jenkins-provisioner-test/musl:latest"
DEBIAN = "jenkins-provisioner-test/agent:latest"
LOOK = f"cd {JARS}; for f in */*; do stat -c '%n %u %Y %s' $f; done; touch */* && mkdir not-hex && echo may change"


@pytest.fixture
def content(client: docker.APIClient) -> Iterator[bytes]:
    """A jar that nobody has; its volume goes at the end. To be asked for before the rig."""
    before = {volume["Name"] for volume in client.volumes()["Volumes"] or ()}
    yield uuid.uuid4().bytes * 80_000
    for volume in client.volumes()["Volumes"] or ():
        name = volume["Name"]
        if name not in before and name.startswith(("jenkins-provisioner-jar", "jenkins-provisioner-classes-")):
            client.remove_volume(name)


def path_of(content: bytes) -> str:
    name = checksum(content)
    return f"{name[:2]}/{name[2:]}.jar"


def asked(rig: DockerRig, shell: str = LOOK, **changes: Any) -> Order:
    changes = {"remote_fs": ROOT, "jars_at": JARS, "jars_of": "http://c/", "agent_jar": b"no zip"} | changes
    return rig.order(shell, **changes)


async def taught(backend: DockerBackend, rig: DockerRig, *contents: bytes, **changes: Any) -> None:
    """An agent has fetched these and is gone."""
    order = asked(rig, "sleep 60", **changes)
    ids, _ = await run(backend, order)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for content in contents:
            entry = tarfile.TarInfo(f"{JARS.lstrip('/')}/{path_of(content)}")
            entry.size, entry.mtime = len(content), 1_700_000_000
            tar.addfile(entry, io.BytesIO(content))
    rig.client.put_archive(ids["container"], "/", packed.getvalue())
    await backend.stop(order.agent, ids)


async def prepared(backend: DockerBackend) -> None:
    async with asyncio.timeout(120):
        await asyncio.to_thread(backend._launching.preparing.settle)


async def begun(rig: DockerRig) -> DockerBackend:
    backend = await rig.backend()
    assert isinstance(backend, DockerBackend)
    return backend


def volumes(client: docker.APIClient) -> set[str]:
    found = client.volumes(filters={"label": f"jenkins-provisioner.cache={KIND}"})["Volumes"] or ()
    return {volume["Name"] for volume in found}


@pytest.mark.parametrize("image", [None, MUSL, DEBIAN], ids=["static busybox", "musl", "Debian"])
@pytest.mark.parametrize("run_as", ["0:0", "4711:4712"])
@pytest.mark.parametrize("read_only", [False, True], ids=["any root", "read-only root"])
async def test_an_agent_copies_them_and_owns_its_own(
    content: bytes, rig: DockerRig, image: str | None, run_as: str, read_only: bool
) -> None:
    if image and not rig.client.images(image):
        pytest.skip(f"the image {image} is missing; run jenkins-test/images.sh")
    backend = await begun(rig)
    more = {"image": image} if image else {}
    await taught(backend, rig, content, run_as=run_as, **more)
    for turn in ("put in", "copied"):
        order = asked(rig, run_as=run_as, template={"read_only": read_only}, **more)
        ids, _ = await run(backend, order)
        looked = rig.client.inspect_container(order.agent)
        lines = await output(backend, order.agent, ids)
        assert lines == (f"{path_of(content)} {run_as.split(':', maxsplit=1)[0]} 1 {len(content)}", "may change"), turn
        assert (looked["Path"] == f"{JARS_AT}/bin/sh") == (turn == "copied")
        await backend.stop(order.agent, ids)
        await prepared(backend)


async def test_the_volume_cannot_be_changed_by_a_build(content: bytes, rig: DockerRig) -> None:
    backend = await begun(rig)
    await taught(backend, rig, content)
    await run(backend, asked(rig))
    await prepared(backend)
    order = asked(rig, f"touch {JARS_AT}/x {JARS_AT}/jars/{path_of(content)} 2>/dev/null || echo no", run_as="0:0")
    ids, _ = await run(backend, order)
    assert "no" in await output(backend, order.agent, ids)


async def test_the_command_gets_its_arguments_as_they_are_and_its_exit_status_is_the_containers(
    content: bytes, rig: DockerRig
) -> None:
    backend = await begun(rig)
    await taught(backend, rig, content)
    await run(backend, asked(rig))
    await prepared(backend)
    words = ("/bin/sh", "-c", 'for w in "$@"; do echo "<$w>"; done; exit 7', "x", "a  b", "$HOME", "'", '"', "")
    order = asked(rig, command=words)
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == ("<a  b>", "<$HOME>", "<'>", '<">', "<>")
    assert (await backend.status(order.agent, ids)).exit_code == 7


async def test_a_volume_that_somebody_removed_is_made_again_and_no_start_fails(
    content: bytes, rig: DockerRig, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.backends.docker.shared._TRUST_S", -1.0)
    backend = await begun(rig)
    before = volumes(client)
    await taught(backend, rig, content)
    await run(backend, asked(rig))
    await prepared(backend)
    (made,) = volumes(client) - before
    client.remove_volume(made)
    for turn in ("put in", "copied"):
        order = asked(rig)
        ids, _ = await run(backend, order)
        assert (await output(backend, order.agent, ids))[-1] == "may change"
        assert (rig.client.inspect_container(order.agent)["Path"] == f"{JARS_AT}/bin/sh") == (turn == "copied")
        await prepared(backend)


async def test_a_volume_whose_jars_are_no_longer_all_is_replaced_and_goes_once_no_agent_has_it(
    content: bytes, rig: DockerRig, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jar_volumes, "_REPLACED_S", -1.0)
    before = volumes(client)
    backend = await begun(rig)
    await taught(backend, rig, content)
    await run(backend, asked(rig))
    await prepared(backend)
    (first,) = volumes(client) - before
    other = asked(rig, "sleep 60")
    ids, _ = await run(backend, other)
    await taught(backend, rig, content, content[::-1])
    await run(backend, asked(rig))
    await prepared(backend)
    assert first in volumes(client)
    await backend.stop(other.agent, ids)
    monkeypatch.setattr("provisioner.backends.docker.preparing._TRUST_S", -1.0)
    for name in volumes(client) - before - {first}:
        backend._launching.preparing.forget(name)
    await run(backend, asked(rig))
    await prepared(backend)
    await prepared(backend)
    assert first not in volumes(client)


async def test_where_nothing_can_be_brought_they_are_put_in(
    content: bytes, rig: DockerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # neither patchelf nor a shell
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    backend = await begun(rig)
    await taught(backend, rig, content)
    for _ in range(2):
        order = asked(rig)
        ids, _ = await run(backend, order)
        assert rig.client.inspect_container(order.agent)["Path"] != f"{JARS_AT}/bin/sh"
        assert (await output(backend, order.agent, ids))[-1] == "may change"
        await prepared(backend)
