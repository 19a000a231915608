"""Secrets that a template names, caches, workspaces and what an engine cannot do."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator

import docker
import pytest

from provisioner.backends.contract import CACHE_KEY, InstanceState, SecretFile
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import DockerRig, output, run

NETWORK = "none"  # none of these needs one
HUSH = "hush-" + uuid.uuid4().hex
SETTINGS = SecretFile(name="0-settings.xml", content=HUSH.encode(), at="/home/jenkins/.m2/settings.xml")
PASSWORD = SecretFile(name="1-db", content=HUSH.encode(), env="DB_PASSWORD_FILE")


@pytest.fixture
def workspaces(rig: DockerRig, client: docker.APIClient) -> Iterator[str]:
    """The job of a test; its volumes go with it."""
    yield f"main/job/{rig.owner}"
    for volume in client.volumes(filters={"label": f"{CACHE_KEY}=workspace"})["Volumes"] or ():
        if rig.owner in volume["Name"]:
            client.remove_volume(volume["Name"])


async def test_secrets_are_where_the_template_wants_them_and_nowhere_else(
    rig: DockerRig, client: docker.APIClient
) -> None:
    backend = await rig.backend()
    script = (
        'cat /home/jenkins/.m2/settings.xml; echo; cat "$DB_PASSWORD_FILE"; echo; '
        'stat -L -c "%u %a" /home/jenkins/.m2/settings.xml "$DB_PASSWORD_FILE"; '
        "touch /home/jenkins/.m2/own && echo writable; exec sleep 600"
    )
    order = rig.order(script, run_as="1000:1000", files=(SETTINGS, PASSWORD))
    ids, _ = await run(backend, order)
    while len(told := await backend.log_tail(order.agent, ids)) < 5:
        assert (await backend.status(order.agent, ids)).state is InstanceState.RUNNING
    assert told == (HUSH, HUSH, "1000 400", "1000 400", "writable")
    assert HUSH not in rig.seen_by_others(order.agent)
    (mount,) = [m for m in client.inspect_container(order.agent)["Mounts"] if m["Name"] == order.agent]
    assert (mount["Type"], mount["Destination"]) == ("volume", "/run/jenkins-provisioner")
    image = client.commit(order.agent, "jenkins-provisioner-test/committed", rig.owner[-8:])["Id"]
    try:
        looker = client.create_container(image, ["x"])["Id"]
        try:
            exported = b"".join(client.export(looker))
        finally:
            client.remove_container(looker)
        assert b"settings.xml" in exported
        assert HUSH.encode() not in exported, "an image made of the container does not hold the secret"
    finally:
        client.remove_image(image, force=True)
    await backend.stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


async def test_secret_replaces_a_file_of_the_image(rig: DockerRig) -> None:
    backend = await rig.backend()
    file = SecretFile(name="0-group", content=b"mine", at="/etc/passwd")
    order = rig.order("cat /etc/passwd", files=(file,))
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == ("mine",)


async def test_start_with_secrets_is_three_requests_once_the_image_is_known(
    rig: DockerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await rig.backend()
    await run(backend, rig.order(files=(SETTINGS,)))
    made: list[str] = []
    engine = backend._engine  # type: ignore[attr-defined]
    real = engine.call

    def counted(method: str, path: str, **more: object) -> object:
        made.append(method)
        return real(method, path, **more)

    monkeypatch.setattr(engine, "call", counted)
    await run(backend, rig.order(files=(SETTINGS,)))
    assert made == ["POST", "PUT", "POST"]


async def test_folders_above_a_cache_belong_to_the_agent(rig: DockerRig, client: docker.APIClient) -> None:
    backend = await rig.backend()
    template = {"volumes": [{"cache": "deep", "at": "/opt/tools/maven/repository"}]}
    script = (
        'stat -c "%u" /opt/tools /opt/tools/maven /opt/tools/maven/repository; stat -c "%u" /tmp; touch /opt/tools/x'
    )
    order = rig.order(script, run_as="1000:1000", template=template)
    try:
        ids, _ = await run(backend, order)
        assert await output(backend, order.agent, ids) == ("1000", "1000", "1000", "0")
        await backend.stop(order.agent, ids)
    finally:
        client.remove_volume(f"jenkins-provisioner-cache-{rig.owner}-deep")


async def test_workspace_is_kept_for_the_next_agent_of_the_job(
    rig: DockerRig, client: docker.APIClient, workspaces: str
) -> None:
    backend = await rig.backend()
    seen = []
    for job in (workspaces, workspaces, f"{workspaces}-other"):
        order = rig.order("ls workspace; echo > workspace/kept", run_as="1000:1000", workspace_of=job)
        ids, _ = await run(backend, order)
        seen.append(await output(backend, order.agent, ids))
        await backend.stop(order.agent, ids)
        assert rig.leftovers(order.agent) == []
    assert seen == [(), ("kept",), ()]
    volume = f"jenkins-provisioner-workspace-{rig.owner}-{hashlib.sha256(workspaces.encode()).hexdigest()[:16]}-1"
    assert client.inspect_volume(volume)["Labels"][CACHE_KEY] == "workspace"
    assert (await backend.listing(rig.owner)).found == ()


async def test_agents_side_by_side_have_workspaces_of_their_own(rig: DockerRig, workspaces: str) -> None:
    backend, other = await rig.backend(), await rig.backend()
    script = "echo $HOSTNAME >> workspace/who; exec sleep 600"
    first, second = (rig.order(script, workspace_of=workspaces) for _ in range(2))
    ids, _ = await run(backend, first)
    more, _ = await run(other, second)  # a restarted sidecar reads from the engine what is taken
    assert (await backend.status(first.agent, ids)).state is InstanceState.RUNNING
    await other.stop(second.agent, more)
    await backend.stop(first.agent, ids)
    third = rig.order("cat workspace/who", workspace_of=workspaces)
    ids, _ = await run(backend, third)
    assert len(await output(backend, third.agent, ids)) == 1
    await backend.stop(third.agent, ids)


async def test_disk_that_the_engine_cannot_bound_is_told(rig: DockerRig, client: docker.APIClient) -> None:
    info = client.info()
    if info["Driver"] != "overlay2" or ["Backing Filesystem", "xfs"] in info["DriverStatus"]:
        pytest.skip("this engine may bound the disk of a container")
    backend = await rig.backend()
    order = rig.order(template={"resources": {"disk": "1g"}})
    (problem,) = await backend.verify(order)
    assert "storage driver overlay2 on" in problem
    with pytest.raises(LaunchError, match=r"resources\.disk") as caught:
        await run(backend, order)
    assert caught.value.reason is Reason.CREATE_REJECTED


async def test_gpu_that_is_not_there_is_told(rig: DockerRig, client: docker.APIClient) -> None:
    if "nvidia" in client.info()["Runtimes"]:
        pytest.skip("this engine has a GPU")
    backend = await rig.backend()
    with pytest.raises(LaunchError, match=r"resources\.gpus") as caught:
        await run(backend, rig.order(template={"resources": {"gpus": 1}}))
    assert caught.value.reason is Reason.CREATE_REJECTED


async def test_device_of_the_host_is_there(rig: DockerRig) -> None:
    backend = await rig.backend()
    order = rig.order("ls /dev/fuse", template={"resources": {"devices": ["/dev/fuse"]}})
    ids, told = await run(backend, order)
    assert await output(backend, order.agent, ids) == ("/dev/fuse",)
    assert "devices /dev/fuse" in repr(told[-1])
