"""Containers whose root cannot be written, on a real engine."""

from __future__ import annotations

import asyncio

import docker
import pytest

from provisioner.backends.contract import InstanceState, SecretFile
from provisioner.backends.docker import filling, runtime
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import SECRET, DockerRig, crash, output, run

NETWORK = "none"
READ_ONLY = {"read_only": True}
OWN = SecretFile(name="secret", content=SECRET.encode())


@pytest.mark.parametrize("user", ["1000:1000", "0:0"])
async def test_root_cannot_be_written_and_work_folder_and_memory_can(rig: DockerRig, user: str) -> None:
    backend = await rig.backend()
    script = (
        "for at in / /bin /home/jenkins; do touch $at/x 2>/dev/null && echo wrote $at; done; "
        "cat /run/jenkins-provisioner/secret; echo; "
        "stat -c '%u %a' . /run/jenkins-provisioner/secret; "
        "for at in . /tmp /run /var/cache; do touch $at/x && echo can $at; done; "
        "echo 'echo runs' >/tmp/run.sh && sh -c 'chmod +x /tmp/run.sh; /tmp/run.sh' 2>&1"
    )
    script = script.replace("echo 'echo runs'", "printf '#!/bin/sh\\necho runs\\n'")
    ids, _ = await run(
        backend, order := rig.order(script, run_as=user, template={**READ_ONLY, "tmpfs": ["/var/cache"]})
    )
    uid = user.split(":", maxsplit=1)[0]
    told = await output(backend, order.agent, ids)
    assert told == (SECRET, f"{uid} 755", f"{uid} 400", "can .", "can /tmp", "can /run", "can /var/cache", "runs")
    await backend.stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


async def test_links_to_secrets_are_where_the_template_wants_them(rig: DockerRig) -> None:
    backend = await rig.backend()
    places = ("/home/jenkins/.m2/settings.xml", "/etc/group", "/tmp/deep/er/key", "/home/jenkins/agent/own", "/run/x")
    files = tuple(SecretFile(name=f"{i}", content=f"hush {i}".encode(), at=at) for i, at in enumerate(places))
    script = (
        f"for at in {' '.join(places)}; do cat $at && echo; done; head -1 /etc/passwd; touch /tmp/y && echo ok; "
        "exec sleep 600"
    )
    order = rig.order(script, run_as="1000:1000", files=(OWN, *files), template=READ_ONLY)
    ids, _ = await run(backend, order)
    while len(told := await backend.log_tail(order.agent, ids)) < 7:
        assert (await backend.status(order.agent, ids)).state is InstanceState.RUNNING
    # the rest of /etc is as the image has it
    assert told[:5] == tuple(f"hush {i}" for i in range(5))
    assert told[5].startswith("root:")
    assert told[6] == "ok"
    assert "hush" not in rig.seen_by_others(order.agent)
    await backend.stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


async def test_caches_and_workspace_are_kept(rig: DockerRig, client: docker.APIClient) -> None:
    backend = await rig.backend()
    template = {**READ_ONLY, "volumes": [{"cache": "deep", "at": "/opt/tools/repository"}]}
    script = "cat workspace/kept /opt/tools/repository/kept; echo kept | tee workspace/kept >/opt/tools/repository/kept"
    job, seen = f"main/job/{rig.owner}", []
    try:
        for _ in range(2):
            order = rig.order(f"{{ {script}; }} 2>&1", run_as="1000:1000", template=template, workspace_of=job)
            ids, _ = await run(backend, order)
            seen.append(await output(backend, order.agent, ids))
            await backend.stop(order.agent, ids)
            assert rig.leftovers(order.agent) == []
    finally:
        for volume in client.volumes()["Volumes"]:
            if rig.owner in volume["Name"]:
                client.remove_volume(volume["Name"])
    assert all("No such file" in line for line in seen[0])
    assert seen[1] == ("kept", "kept")


@pytest.mark.skipif(runtime.problem() is not None, reason=str(runtime.problem()))
async def test_injected_java_runs(rig: DockerRig) -> None:
    backend = await rig.backend()
    order = rig.order(command=("{java}", "-version"), java="injected", run_as="1000:1000", template=READ_ONLY)
    ids, _ = await run(backend, order)
    assert "Runtime Environment" in " ".join(await output(backend, order.agent, ids))
    assert (await backend.status(order.agent, ids)).exit_code == 0


async def test_channel_works(rig: DockerRig) -> None:
    backend = await rig.backend()
    order = rig.order("read word; echo got $word; touch own && echo wrote", channel=True, template=READ_ONLY)
    ids, _ = await run(backend, order)
    channel = await backend.open_channel(order.agent, ids)
    await channel.write(b"this\n")
    got = b""
    while data := await channel.read():
        got += data
    assert got == b"got this\nwrote\n"
    await channel.close()


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_after_a_crash_everything_is_found_and_removed(rig: DockerRig, steps: int) -> None:
    order = rig.order(template={**READ_ONLY})
    await crash(rig, order, steps)
    backend = await rig.backend()
    await backend.stop(order.agent, {})
    assert rig.leftovers(order.agent) == []


async def test_container_that_a_dead_sidecar_was_filling_through_goes_with_the_agent(
    rig: DockerRig, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await rig.backend()
    await run(backend, rig.order(template=READ_ONLY))
    order = rig.order(template=READ_ONLY)

    def dies(*_: object) -> None:
        raise LaunchError("the process is dead", reason=Reason.INTERNAL_ERROR)

    with monkeypatch.context() as patch:
        patch.setattr(filling, "remove_container", dies)
        with pytest.raises(LaunchError, match="the process is dead"):
            await run(backend, order)
    ids = {"container": client.inspect_container(order.agent)["Id"]}
    assert len([thing for thing in rig.leftovers(order.agent) if thing.startswith("container")]) == 2
    await backend.stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


async def test_stop_at_any_moment_of_a_start_wins(rig: DockerRig) -> None:
    backend = await rig.backend()
    await run(backend, first := rig.order(template=READ_ONLY))
    await backend.stop(first.agent, {})
    for wait_s in (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3):
        order = rig.order(template=READ_ONLY)
        start = asyncio.create_task(run(backend, order))
        await asyncio.sleep(wait_s)
        await backend.stop(order.agent, {})
        (ended,) = await asyncio.gather(start, return_exceptions=True)
        assert not isinstance(ended, BaseException) or getattr(ended, "reason", None) is Reason.CANCELLED, ended
        assert rig.leftovers(order.agent) == []
