"""What is special to containers: limits, owners of files, what is shared, what strangers hold."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Mapping

import docker
import pytest

from provisioner.backends.contract import AGENT_KEY, CACHE_KEY, OWNER_KEY, InstanceState
from provisioner.backends.docker import engine as engine_module
from provisioner.backends.docker.backend import DockerBackend
from provisioner.backends.docker.reading import _killed_for_memory
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import BUSYBOX, DockerRig, output, run, until


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request to the engine, as it is made."""
    made: list[str] = []
    real = engine_module.Engine._request

    def counted(self: engine_module.Engine, method: str, path: str, *args: object, **kwargs: object) -> object:
        made.append(f"{method} {path}")
        return real(self, method, path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module.Engine, "_request", counted)
    return made


async def test_start_is_three_requests_and_stop_two(rig: DockerRig, requests: list[str]) -> None:
    backend = await rig.backend()
    await run(backend, rig.order())  # image and agent.jar have been seen
    requests.clear()
    order = rig.order()
    ids, _ = await run(backend, order)
    container = ids["container"]
    assert requests == [
        "POST /containers/create",
        f"PUT /containers/{container}/archive",
        f"POST /containers/{container}/start",
    ]
    requests.clear()
    await backend.stop(order.agent, ids)
    assert requests == [f"DELETE /containers/{container}", f"DELETE /volumes/{order.agent}"]


async def test_limits_and_names_are_in_force(rig: DockerRig, client: docker.APIClient) -> None:
    backend = await rig.backend()
    template = {
        "resources": {"cpus": 0.5, "memory": "64m", "pids": 50, "shm_bytes": 16 << 20},
        "extra_hosts": {"db": "10.1.2.3"},
        "dns": ["10.9.8.7"],
    }
    order = rig.order("cat /etc/hosts /etc/resolv.conf", template=template)
    ids, told = await run(backend, order)
    host = client.inspect_container(order.agent)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 64 << 20, 64 << 20)
    assert (host["PidsLimit"], host["ShmSize"], host["Init"]) == (50, 16 << 20, True)
    lines = " ".join(await output(backend, order.agent, ids)).split()
    assert "10.1.2.3" in lines
    assert "10.9.8.7" in lines
    assert "0.5 CPUs, 64 MB memory, 50 processes" in repr(told[-1])


async def test_too_much_memory_is_told(rig: DockerRig) -> None:
    backend = await rig.backend()
    order = rig.order("exec tail /dev/zero", template={"resources": {"memory": 8 << 20}})
    ids, _ = await run(backend, order)
    await until(backend, order.agent, ids, InstanceState.EXITED)
    status = await backend.status(order.agent, ids)
    assert (status.out_of_memory, status.exit_code) == (True, 137)
    # the engine's events alone tell it too, for where its state of the container was made before the kernel's word
    assert isinstance(backend, DockerBackend)
    found = backend._engine.call("GET", f"/containers/{order.agent}/json").json()
    assert isinstance(found, Mapping)
    assert _killed_for_memory(backend._engine, found)


async def test_a_kill_under_a_limit_is_not_told_as_too_little_memory(rig: DockerRig, client: docker.APIClient) -> None:
    backend = await rig.backend()
    order = rig.order("sleep 60", template={"resources": {"memory": "64m"}})
    ids, _ = await run(backend, order)
    client.kill(order.agent)
    await until(backend, order.agent, ids, InstanceState.EXITED)
    status = await backend.status(order.agent, ids)
    assert (status.out_of_memory, status.exit_code) == (False, 137)


@pytest.mark.parametrize(
    ("run_as", "uid"), [("1000:1000", 1000), ("4711", 4711), ("jenkins", 1000), ("0:0", 0), (None, 0)]
)
async def test_secret_and_work_folder_belong_to_the_user(rig: DockerRig, run_as: str | None, uid: int) -> None:
    backend = await rig.backend()
    script = 'id -u; stat -c "%u %a" /run/jenkins-provisioner/secret; cd /home/jenkins/agent && touch x && pwd; id -u'
    order = rig.order(script, run_as=run_as)
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == (str(uid), f"{uid} 400", "/home/jenkins/agent", str(uid))


async def test_user_that_the_image_names_and_its_anonymous_volume(
    rig: DockerRig, named_user_image: str, client: docker.APIClient
) -> None:
    backend = await rig.backend()
    before = {volume["Name"] for volume in client.volumes()["Volumes"] or ()}
    order = rig.order('id -u; stat -c "%u %a" /run/jenkins-provisioner/secret; touch x; pwd', image=named_user_image)
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == ("4711", "4711 400", "/home/jenkins/agent")
    await backend.stop(order.agent, ids)
    after = {volume["Name"] for volume in client.volumes()["Volumes"] or ()}
    assert not [name for name in after - before if len(name) == 64]  # anonymous volumes have such names


async def test_work_folder_that_no_image_has(rig: DockerRig) -> None:
    backend = await rig.backend()
    order = rig.order("pwd; touch x && ls", run_as="1234:1234", remote_fs="/some/deep/folder")
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == ("/some/deep/folder", "x")


async def test_secret_folder_and_jar_cannot_be_changed_by_the_build(rig: DockerRig) -> None:
    backend = await rig.backend()
    script = (
        "touch /run/jenkins-provisioner/x || echo no; rm -f /run/jenkins-provisioner/secret || echo no; "
        "rm -f /opt/jenkins-provisioner/agent.jar || echo no"
    )
    order = rig.order(f"({script}) 2>/dev/null", run_as="1000:1000")
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == ("no", "no", "no")


async def test_cache_is_kept_for_the_next_agent_and_carries_no_owner(rig: DockerRig, client: docker.APIClient) -> None:
    backend = await rig.backend()
    template = {"volumes": [{"cache": "repo", "at": "/home/jenkins/repo"}]}
    seen = []
    try:
        for _ in range(2):
            order = rig.order(
                "ls /home/jenkins/repo; touch /home/jenkins/repo/kept", run_as="1000:1000", template=template
            )
            ids, _ = await run(backend, order)
            seen.append(await output(backend, order.agent, ids))
            await backend.stop(order.agent, ids)
        assert seen == [(), ("kept",)]
        labels = client.inspect_volume(f"jenkins-provisioner-cache-{rig.owner}-repo")["Labels"]
        assert labels == {CACHE_KEY: "repo"}
        assert (await backend.listing(rig.owner)).found == ()
    finally:
        client.remove_volume(f"jenkins-provisioner-cache-{rig.owner}-repo")


async def test_jar_is_put_there_once_by_two_sidecars_at_once(rig: DockerRig, client: docker.APIClient) -> None:
    jar = uuid.uuid4().bytes * 100_000
    volume = f"jenkins-provisioner-jar-{hashlib.sha256(jar).hexdigest()[:32]}"
    backends = [await rig.backend() for _ in range(3)]
    orders = [rig.order("exec wc -c /opt/jenkins-provisioner/agent.jar", agent_jar=jar) for _ in range(6)]
    try:
        ids = await asyncio.gather(*(run(backends[i % 3], order) for i, order in enumerate(orders)))
        for order, (saved, _) in zip(orders, ids, strict=True):
            (line,) = await output(backends[0], order.agent, saved)
            assert int(line.split()[0]) == len(jar)
        assert client.inspect_volume(volume)["Labels"] == {CACHE_KEY: "agent.jar"}
        for order in orders:
            await backends[0].stop(order.agent, {})
    finally:
        client.remove_volume(volume)


async def test_jar_volume_that_was_pruned_is_filled_again(
    rig: DockerRig, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.backends.docker.shared._TRUST_S", 0.0)
    backend = await rig.backend()
    jar = uuid.uuid4().bytes * 10
    volume = f"jenkins-provisioner-jar-{hashlib.sha256(jar).hexdigest()[:32]}"
    for _ in range(2):
        order = rig.order("exec wc -c /opt/jenkins-provisioner/agent.jar", agent_jar=jar)
        ids, _ = await run(backend, order)
        (line,) = await output(backend, order.agent, ids)
        assert int(line.split()[0]) == len(jar)
        await backend.stop(order.agent, ids)
        client.remove_volume(volume)


async def test_filler_that_a_dead_sidecar_left_is_replaced(
    rig: DockerRig, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.backends.docker.shared._FILLING_S", 0.5)
    jar = uuid.uuid4().bytes * 10
    volume = f"jenkins-provisioner-jar-{hashlib.sha256(jar).hexdigest()[:32]}"
    left = client.create_container(BUSYBOX, ["x"], name=f"{volume}-fill")["Id"]
    backend = await rig.backend()
    order = rig.order("exec wc -c /opt/jenkins-provisioner/agent.jar", agent_jar=jar)
    try:
        ids, _ = await run(backend, order)
        (line,) = await output(backend, order.agent, ids)
        assert int(line.split()[0]) == len(jar)
        assert not client.containers(all=True, filters={"id": left})
        await backend.stop(order.agent, ids)
    finally:
        client.remove_volume(volume)


async def test_stranger_with_the_name_is_left_alone(rig: DockerRig, client: docker.APIClient) -> None:
    backend = await rig.backend()
    order = rig.order()
    stranger = client.create_container(BUSYBOX, ["sleep", "600"], name=order.agent)["Id"]
    try:
        with pytest.raises(LaunchError, match="not ours") as caught:
            await run(backend, order)
        assert caught.value.reason is Reason.CREATE_REJECTED
        await backend.stop(order.agent, {})
        assert (await backend.status(order.agent, {})).state is InstanceState.MISSING
        assert client.inspect_container(stranger)["State"]["Status"] == "created"
    finally:
        client.remove_container(stranger, force=True)


async def test_volume_in_use_by_a_late_container_of_ours_goes_with_it(rig: DockerRig, client: docker.APIClient) -> None:
    backend = await rig.backend()
    order = rig.order()
    ids, _ = await run(backend, order)
    late = client.create_container(
        BUSYBOX,
        ["sleep", "600"],
        labels={OWNER_KEY: rig.owner, AGENT_KEY: order.agent},
        host_config=client.create_host_config(binds=[f"{order.agent}:/x"]),
    )["Id"]
    await backend.stop(order.agent, ids)
    assert not client.containers(all=True, filters={"id": late})
    assert rig.leftovers(order.agent) == []


@pytest.mark.parametrize(
    ("changes", "reason", "word"),
    [
        ({"run_as": "nobody-knows"}, Reason.AGENT_EXITED, "nobody-knows"),
        ({"remote_fs": "not/absolute"}, Reason.CREATE_REJECTED, "absolute"),
        ({"template": {"resources": {"memory": 1000}}}, Reason.CREATE_REJECTED, "memory"),
        ({"template": {"resources": {"memory": "lots"}}}, Reason.TEMPLATE_INVALID, "lots"),
        ({"template": {"resources": {"devices": ["/dev/nope"]}}}, Reason.CREATE_REJECTED, "/dev/nope"),
    ],
)
async def test_settings_that_cannot_work_are_refused_in_words(
    rig: DockerRig, changes: dict[str, object], reason: Reason, word: str
) -> None:
    backend = await rig.backend()
    order = rig.order(**changes)  # type: ignore[arg-type]
    with pytest.raises(LaunchError, match=word) as caught:
        await run(backend, order)
    assert caught.value.reason is reason
    await backend.stop(order.agent, {})
    assert rig.leftovers(order.agent) == []


@pytest.mark.parametrize("program", ["java", "/no/java"])
async def test_image_without_java_ends_at_once_and_says_so(rig: DockerRig, program: str) -> None:
    backend = DockerBackend(java=program)
    order = rig.order(command=("{java}", "-version"))
    ids, _ = await run(backend, order)
    (line,) = await output(backend, order.agent, ids)
    assert f"exec {program} failed" in line
    assert (await backend.status(order.agent, ids)).exit_code == 127
    await backend.stop(order.agent, ids)
    await backend.close()


async def test_network_and_runtime_that_are_not_there(rig: DockerRig) -> None:
    no_network, no_runtime = DockerBackend(network="no-such-net"), DockerBackend(runtime="no-such-run")
    for backend, word in ((no_network, "no-such-net"), (no_runtime, "no-such-run")):
        order = rig.order()
        (problem,) = await backend.verify(order)
        assert word in problem
        with pytest.raises(LaunchError, match=word) as caught:
            await run(backend, order)
        assert caught.value.reason is Reason.CREATE_REJECTED
        await backend.stop(order.agent, {})
        await backend.close()
        assert rig.leftovers(order.agent) == []


async def test_own_network_and_the_host_s(rig: DockerRig, client: docker.APIClient) -> None:
    name = f"{rig.owner}-net"
    network = client.create_network(name)["Id"]
    try:
        for wanted in (name, "host"):
            backend = DockerBackend(network=wanted)
            order = rig.order()
            ids, _ = await run(backend, order)
            assert list(client.inspect_container(order.agent)["NetworkSettings"]["Networks"]) == [wanted]
            await backend.stop(order.agent, ids)
            await backend.close()
    finally:
        client.remove_network(network)


async def test_image_removed_behind_our_back_is_looked_for_again(
    rig: DockerRig, named_user_image: str, client: docker.APIClient
) -> None:
    backend = await rig.backend()
    assert await backend.verify(rig.order(image=named_user_image, pull="never")) == ()
    client.tag(named_user_image, "jenkins-provisioner-test/kept", "1")
    client.remove_image(named_user_image)
    try:
        gone = rig.order(image=named_user_image, pull="never")
        with pytest.raises(LaunchError) as caught:
            await run(backend, gone)
        assert caught.value.reason is Reason.IMAGE_NOT_FOUND
    finally:
        repository, tag = named_user_image.rsplit(":", 1)
        client.tag("jenkins-provisioner-test/kept:1", repository, tag)
        client.remove_image("jenkins-provisioner-test/kept:1")
