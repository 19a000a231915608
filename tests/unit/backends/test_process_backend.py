"""What is special to processes: strays, lost folders, numbers that come again."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.backends.contract import Checkpoint, InstanceState, Order, SecretFile
from provisioner.backends.process import proc
from provisioner.backends.process.backend import ProcessBackend
from provisioner.backends.process.folder import Folder, keep_jar
from provisioner.backends.process.proc import ProcessId
from provisioner.model.errors import LaunchError, Reason

pytestmark = pytest.mark.skipif(not proc.readable(), reason="needs /proc")


#: Two runs on one machine see each other's processes, but for this.
OWNER = f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    made = ProcessBackend(work_dir=tmp_path / "agents", grace_s=0.3)
    await made.open()
    yield made
    for found in (await made.listing(OWNER)).found:
        await made.remove_found(found)
    await made.close()


def order(script: str = "exec sleep 600") -> Order:
    return Order(
        agent=f"tpl-{uuid.uuid4().hex}",
        owner=OWNER,
        image=None,
        command=("/bin/sh", "-c", script),
        remote_fs="/nowhere",
        files=(SecretFile(name="secret", content=b"hush"),),
        agent_jar=b"jar",
    )


async def start(backend: ProcessBackend, one: Order) -> ProcessId:
    pid = None
    async for step in backend.start(one):
        if isinstance(step, Checkpoint) and step.key == "pid":
            pid = ProcessId.parse(step.value)
    assert pid is not None
    return pid


async def lines(backend: ProcessBackend, one: Order, count: int) -> tuple[str, ...]:
    async with asyncio.timeout(10):
        while len(found := await backend.log_tail(one.agent, {})) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return found


def alive(pids: list[int]) -> list[str]:
    """Those that live, and those dead that wait for us to take their exit code; init's zombies are init's."""
    found = []
    for pid in pids:
        try:
            letter, parent, *_ = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if letter != "Z" or int(parent) == os.getpid():
            found.append(f"{pid} {letter}")
    return found


async def test_stop_ends_daemons_and_children_and_leaves_no_zombie(backend: ProcessBackend) -> None:
    one = order(
        "sleep 600 & echo $!; setsid sleep 600 & sleep 0.1; (setsid sh -c 'echo $$; exec sleep 600' &); echo $$; wait"
    )
    leader = await start(backend, one)
    pids = [int(line) for line in await lines(backend, one, 3)]
    await backend.stop(one.agent, {})
    assert alive([*pids, leader.pid]) == []


async def test_stop_ends_a_child_that_dropped_the_mark(backend: ProcessBackend) -> None:
    one = order("env -i /bin/sh -c 'echo $$; exec sleep 600' & wait")
    await start(backend, one)
    (pid,) = await lines(backend, one, 1)
    await backend.stop(one.agent, {})
    assert alive([int(pid)]) == []


async def test_stop_ends_what_ignores_the_polite_signal(backend: ProcessBackend) -> None:
    one = order("trap '' TERM; echo ready; while :; do sleep 0.05; done")
    await start(backend, one)
    await lines(backend, one, 1)
    await backend.stop(one.agent, {})
    assert (await backend.listing(OWNER)).found == ()


async def test_lost_folder_does_not_hide_the_process(backend: ProcessBackend, tmp_path: Path) -> None:
    one = order()
    pid = await start(backend, one)
    Folder.of(tmp_path / "agents", OWNER, one.agent).remove()
    assert (await backend.status(one.agent, {})).state is InstanceState.RUNNING
    found = (await backend.listing(OWNER)).found
    assert {(f.kind, f.agent) for f in found} == {("process", one.agent)}
    for each in found:
        await backend.remove_found(each)
    assert alive([pid.pid]) == []


async def test_number_that_came_again_is_a_stranger(backend: ProcessBackend, tmp_path: Path) -> None:
    one = order("exit 0")
    pid = await start(backend, one)
    async with asyncio.timeout(10):
        while (await backend.status(one.agent, {})).state is not InstanceState.EXITED:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:  # noqa: ASYNC220
        try:
            seen = proc.look(stranger.pid)
            assert seen is not None
            # the folder names the stranger's number with another start time
            folder = Folder.of(tmp_path / "agents", OWNER, one.agent)
            folder.save_process(replace(seen.id, start_ticks=pid.start_ticks - 1))
            assert (await backend.status(one.agent, {})).state is InstanceState.EXITED
            await backend.stop(one.agent, {"pid": str(folder.process())})
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_secret_files_are_for_this_user_alone_and_gone_after_stop(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    one = order()
    await start(backend, one)
    folder = Folder.of(tmp_path / "agents", OWNER, one.agent)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (folder.path, folder.secrets, folder.secrets / "secret")}
    assert list(modes.values()) == [0o700, 0o700, 0o600]
    await backend.stop(one.agent, {})
    assert not folder.path.exists()


async def test_sidecar_s_own_environment_is_not_passed_on(
    backend: ProcessBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JENKINS_TOKEN", "hush")
    one = order("env; echo END")
    await start(backend, one)
    async with asyncio.timeout(10):
        while "END" not in (told := await backend.log_tail(one.agent, {}, 100)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert f"JENKINS_PROVISIONER_AGENT={one.agent}" in told
    assert not [line for line in told if line.startswith("JENKINS_TOKEN")]


async def test_read_only_folders_of_a_build_are_removed(backend: ProcessBackend, tmp_path: Path) -> None:
    one = order("mkdir -p a/b && touch a/b/c && chmod 500 a/b a && echo done")
    await start(backend, one)
    await lines(backend, one, 1)
    await backend.stop(one.agent, {})
    assert list((tmp_path / "agents" / OWNER).iterdir()) == []


async def test_killed_launcher_does_not_hide_the_running_command(backend: ProcessBackend) -> None:
    one = order("echo up; while :; do sleep 0.05; done")
    pid = await start(backend, one)
    await lines(backend, one, 1)
    os.kill(pid.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while proc.alive(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await asyncio.sleep(0)
    await backend.stop(one.agent, {})
    assert (await backend.listing(OWNER)).found == ()


async def test_dropped_start_runs_nothing_and_leaves_no_zombie(backend: ProcessBackend) -> None:
    one = order("echo never")
    steps = backend.start(one)
    pid = None
    async for step in steps:
        if isinstance(step, Checkpoint) and step.key == "pid":
            pid = ProcessId.parse(step.value)
            break
    assert pid is not None
    await steps.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while alive([pid.pid]):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert await backend.log_tail(one.agent, {}) == ()
    assert (await backend.status(one.agent, {})).state is InstanceState.CREATED
    await backend.stop(one.agent, {})


async def test_missing_program_is_refused_before_anything_is_made(backend: ProcessBackend) -> None:
    one = replace(order(), command=("{java}-of-nowhere", "-version"))
    assert "java-of-nowhere" in (await backend.verify(one))[0]
    with pytest.raises(LaunchError) as caught:
        await start(backend, one)
    assert caught.value.reason is Reason.CREATE_REJECTED
    assert (await backend.listing(OWNER)).found == ()


@pytest.mark.parametrize("name", ["../other", "", ".", "..", ".jar", "a/b", "a\0b"])
async def test_names_cannot_lead_out_of_the_work_folder(backend: ProcessBackend, name: str) -> None:
    with pytest.raises(LaunchError) as caught:
        await start(backend, replace(order(), agent=name))
    assert caught.value.reason is Reason.TEMPLATE_INVALID


async def test_jar_is_kept_once_for_all_agents(backend: ProcessBackend, tmp_path: Path) -> None:
    for _ in range(2):
        one = order()
        await start(backend, one)
        await backend.stop(one.agent, {})
    (kept,) = (tmp_path / "agents" / ".jar").iterdir()
    assert kept.read_bytes() == b"jar"


async def test_unwritable_work_folder_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    backend = ProcessBackend(work_dir=tmp_path / "file" / "agents")
    with pytest.raises(LaunchError) as caught:
        await backend.open()
    assert caught.value.reason is Reason.PROVIDER_UNREACHABLE
    await backend.close()


def test_agents_that_start_at_once_share_one_whole_agent_jar(tmp_path: Path) -> None:
    jar = os.urandom(2 << 20)
    threads = 8
    together = threading.Barrier(threads)

    def keep(work_dir: Path) -> bytes:
        together.wait(10)
        return keep_jar(work_dir, jar).read_bytes()

    with ThreadPoolExecutor(threads) as pool:
        for turn in range(5):
            assert set(pool.map(keep, [tmp_path / str(turn)] * threads)) == {jar}
            assert len(list((tmp_path / str(turn) / ".jar").iterdir())) == 1
