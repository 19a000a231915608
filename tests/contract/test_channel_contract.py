"""What every backend with channels must do: the command's own streams, for whoever opens them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from provisioner.backends.contract import Backend, Channel, InstanceState
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import SECRET, Rig, crash, run, until

CRASH_POINTS = range(5)


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """A channel needs no network: the containers have none."""
    if rig.provider.backend == "docker":
        rig.provider = replace(rig.provider, network="none")
    return rig


_PATIENCE_S = 20


async def _all(channel: Channel) -> bytes:
    found = b""
    async with asyncio.timeout(_PATIENCE_S):
        while data := await channel.read():
            found += data
    return found


async def _exactly(channel: Channel, size: int) -> bytes:
    found = b""
    async with asyncio.timeout(_PATIENCE_S):
        while len(found) < size:
            data = await channel.read()
            assert data, f"ended after {len(found)} bytes: {channel.last_words()}"
            found += data
    return found


async def _opened(rig: Rig, script: str) -> tuple[Backend, str, dict[str, str], Channel]:
    backend = await rig.backend()
    order = rig.order(script, channel=True)
    ids, _ = await run(backend, order)
    return backend, order.agent, ids, await backend.open_channel(order.agent, ids)


async def test_command_begins_when_its_channel_is_opened_and_loses_nothing(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order("echo begun; exec cat", channel=True)
    ids, _ = await run(backend, order)
    await asyncio.sleep(0.2)
    assert (await backend.status(order.agent, ids)).state in (InstanceState.CREATED, InstanceState.RUNNING)
    channel = await backend.open_channel(order.agent, ids)
    assert await _exactly(channel, 6) == b"begun\n"
    await channel.write(bytes(range(256)))
    assert await _exactly(channel, 256) == bytes(range(256))
    assert (await backend.status(order.agent, ids)).state is InstanceState.RUNNING
    await channel.close()


async def test_standard_error_is_kept_apart(rig: Rig) -> None:
    _, _, _, channel = await _opened(rig, "echo first >&2; echo out; echo last >&2")
    assert await _all(channel) == b"out\n"
    assert channel.said()[0] == "first"
    assert channel.last_words()[-1] == "last"
    await channel.close()


async def test_end_of_the_command_is_the_end_of_the_channel(rig: Rig) -> None:
    backend, agent, ids, channel = await _opened(rig, "echo bye; exit 7")
    assert await _all(channel) == b"bye\n"
    await until(backend, agent, ids, InstanceState.EXITED)
    assert (await backend.status(agent, ids)).exit_code == 7
    with pytest.raises(ConnectionError):  # noqa: PT012  (the first may still go into a buffer)
        for _ in range(100):
            await channel.write(b"anybody?")
            await asyncio.sleep(0.01)
    await channel.close()


async def test_closing_ends_the_input_and_so_the_command(rig: Rig) -> None:
    backend, agent, ids, channel = await _opened(rig, "cat; exit 3")
    await channel.write(b"x")
    assert await _exactly(channel, 1) == b"x"
    await channel.close()
    await channel.close()
    await until(backend, agent, ids, InstanceState.EXITED)
    assert (await backend.status(agent, ids)).exit_code == 3


async def test_a_command_that_stays_is_killed(rig: Rig) -> None:
    backend, agent, ids, channel = await _opened(rig, "echo up; sleep 600 & sleep 600")
    assert await _exactly(channel, 3) == b"up\n"
    await channel.close(grace_s=0.2)
    await until(backend, agent, ids, InstanceState.EXITED)


async def test_closing_while_somebody_reads_and_writes_ends_both(rig: Rig) -> None:
    backend, agent, ids, channel = await _opened(rig, "echo up; sleep 600")
    assert await _exactly(channel, 3) == b"up\n"

    async def write() -> None:
        while True:
            await channel.write(b"x" * 65536)

    reading, writing = asyncio.create_task(_all(channel)), asyncio.create_task(write())
    await asyncio.sleep(0.1)
    assert not writing.done()
    async with asyncio.timeout(_PATIENCE_S):
        await channel.close(grace_s=0.2)
        assert await reading == b""
        with pytest.raises(ConnectionError):
            await writing
    await until(backend, agent, ids, InstanceState.EXITED)


async def test_it_is_opened_once(rig: Rig) -> None:
    _, agent, ids, channel = await _opened(rig, "echo up; exec cat")
    assert await _exactly(channel, 3) == b"up\n"
    with pytest.raises(LaunchError) as caught:
        await (await rig.backend()).open_channel(agent, ids)
    assert caught.value.reason is Reason.AGENT_LOST
    await channel.write(b"still")
    assert await _exactly(channel, 5) == b"still"
    await channel.close()


async def test_a_channel_of_nothing_is_refused(rig: Rig) -> None:
    with pytest.raises(LaunchError) as caught:
        await (await rig.backend()).open_channel(rig.order().agent, {})
    assert caught.value.reason is Reason.AGENT_LOST


async def test_stop_ends_the_channel(rig: Rig) -> None:
    backend, agent, ids, channel = await _opened(rig, "echo up; exec cat")
    assert await _exactly(channel, 3) == b"up\n"
    reading = asyncio.create_task(_all(channel))
    await backend.stop(agent, ids)
    assert await reading == b""
    await channel.close()
    assert rig.leftovers(agent) == []


async def test_the_command_waits_for_a_reader_and_for_a_writer(rig: Rig) -> None:
    """Far more than all buffers together, each way, byte for byte."""
    size = 48 << 20
    _, _, _, channel = await _opened(rig, "exec cat")
    piece = hashlib.sha256(b"piece").digest() * 2048
    written = 0

    async def write() -> None:
        nonlocal written
        while written < size:
            await channel.write(piece)
            written += len(piece)

    writing = asyncio.create_task(write())
    await asyncio.sleep(1.0)
    assert not writing.done()  # nobody reads, so `cat` does not, either
    assert written < 16 << 20
    seen = hashlib.sha256()
    left = size
    while left:
        data = await channel.read()
        seen.update(data)
        left -= len(data)
    await writing
    assert seen.digest() == hashlib.sha256(piece * (size // len(piece))).digest()
    await channel.close()


async def test_death_of_the_holder_ends_the_command(rig: Rig) -> None:
    """Nothing of ours has to run for an agent to end whose gateway was killed."""
    backend = await rig.backend()
    order = rig.order("echo up; cat; exit 4", channel=True)
    ids, _ = await run(backend, order)
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("channel_holder.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    job = {"provider": asdict(rig.provider), "agent": order.agent, "ids": ids}
    holder.stdin.write(json.dumps(job).encode() + b"\n")
    async with asyncio.timeout(_PATIENCE_S):
        assert await holder.stdout.readline() == b"up\n"
    assert (await backend.status(order.agent, ids)).state is InstanceState.RUNNING
    holder.kill()
    await holder.communicate()
    await until(backend, order.agent, ids, InstanceState.EXITED)


@pytest.mark.parametrize("steps", CRASH_POINTS)
async def test_a_start_goes_on_after_the_sidecar_was_killed_and_the_channel_opens(rig: Rig, steps: int) -> None:
    order = rig.order("echo up; exec cat", channel=True)
    await crash(rig, order, steps)
    backend = await rig.backend()
    ids, _ = await run(backend, order)
    channel = await backend.open_channel(order.agent, ids)
    assert await _exactly(channel, 3) == b"up\n"
    await channel.close()
    await backend.stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


async def test_no_secret_is_seen_by_others(rig: Rig) -> None:
    _, agent, _, channel = await _opened(rig, "echo up; exec cat")
    assert await _exactly(channel, 3) == b"up\n"
    assert SECRET not in rig.seen_by_others(agent)
    await channel.close()
