"""The gateway's own process: one for a folder, found again, replaced when it is idle, gone when nobody needs it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from provisioner.backends.contract import InstanceState
from provisioner.gateway import client as client_module
from provisioner.gateway.client import GatewayClient
from provisioner.gateway.process import AlreadyThereError, GatewayError, GatewayProcess
from provisioner.model.errors import LaunchError, Reason
from tests.gateway_house import House


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.backend.open()
    yield made
    await made.close()


async def test_two_sidecars_that_begin_at_once_share_one_gateway(house: House) -> None:
    one, other = house.client(), house.client()
    assert await house.reached(one) == await house.reached(other)
    await house.agent(one, "a")
    assert await other.agents() == {"a": "open"}
    async with asyncio.timeout(20):  # the other one looks at the lock, and goes
        while len(house.pids()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_gateway_outlives_a_killed_sidecar_and_serves_the_next(house: House) -> None:
    first = house.client()
    gate = await house.agent(first, "a")
    process = await house.session(gate, "a")
    pids = house.pids()
    await house.drop(first)
    process.stdin.write(b"still here")
    assert await process.stdout.readexactly(10) == b"still here"
    second = house.client()
    assert await house.reached(second) == gate
    assert house.pids() == pids
    assert await second.agents() == {"a": "served"}
    await second.admit("a", root=house.root("a"), jar="0", key=house.keys["a"].export_public_key().decode())
    await second.open("a", house.ids["a"], house.place)  # as a sidecar does that was killed half-way: nothing changes
    await second.revoke("a")
    await house.until("a", InstanceState.EXITED)
    assert await second.agents() == {}


async def test_death_of_a_gateway_ends_its_agents_and_another_takes_its_port_and_key(house: House) -> None:
    client = house.client()
    gate = await house.agent(client, "a")
    (pid,) = house.pids()
    await house.session(gate, "a")
    os.kill(pid, signal.SIGKILL)
    await house.until("a", InstanceState.EXITED)
    async with asyncio.timeout(30):
        while house.pids() in ([], [pid]) or not client._reached.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert client.gate == gate
    assert await client.agents() == {}
    with pytest.raises(LaunchError) as caught:
        await client.open("a", house.ids["a"], house.place)
    assert caught.value.reason is Reason.AGENT_LOST


async def test_a_gateway_of_another_release_is_kept_until_it_is_idle(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = house.client()
    gate = await house.agent(old, "a")
    process = await house.session(gate, "a")
    (pid,) = house.pids()
    await house.drop(old)
    monkeypatch.setattr(client_module, "_REPLACE_EVERY_S", 0.1)
    monkeypatch.setattr(client_module, "__version__", "999")
    new = house.client()
    await house.reached(new)
    await asyncio.sleep(0.5)
    process.stdin.write(b"undisturbed")
    assert await process.stdout.readexactly(11) == b"undisturbed"
    await house.agent(new, "b")  # it takes new agents as well: they speak the same protocol
    assert house.pids() == [pid]
    await new.revoke("a")
    await new.revoke("b")
    async with asyncio.timeout(30):
        while pid in house.pids() or not house.pids():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    monkeypatch.undo()


async def test_a_gateway_of_another_protocol_gets_no_new_agents(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    old = house.client()
    await house.agent(old, "a")
    await house.drop(old)
    monkeypatch.setattr(client_module, "PROTOCOL", 2)
    new = house.client()
    await house.reached(new)
    with pytest.raises(LaunchError) as caught:
        await new.admit("b", root="/x", jar="0", key=house.keys["a"].export_public_key().decode())
    assert caught.value.retryable
    assert "still carries 1 agents" in caught.value.message
    assert await new.agents() == {"a": "open"}
    monkeypatch.undo()


async def test_parting_ends_an_idle_gateway_at_once(house: House) -> None:
    client = house.client()
    await house.reached(client)
    await client.part()
    async with asyncio.timeout(20):
        while house.pids():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_none_is_started_that_nobody_needs(house: House) -> None:
    client = house.client(needed=False)
    await asyncio.sleep(0.3)
    assert house.pids() == []
    assert await client.agents() == {}
    await client.revoke("a")


async def test_a_port_that_is_taken_is_told(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        client = house.client(listen=("127.0.0.1", taken.getsockname()[1]))
        async with asyncio.timeout(30):
            while "cannot listen" not in client.problem:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "write another `gateway.listen`" in client.problem


async def test_fifty_agents_at_once(house: House) -> None:
    client = house.client()
    await house.reached(client)
    names = [f"agent-{number}" for number in range(50)]
    gates = [await house.agent(client, name) for name in names]
    sessions = await asyncio.gather(*(house.session(gate, name) for gate, name in zip(gates, names, strict=True)))
    sent = {name: hashlib.sha256(name.encode()).digest() * 4096 for name in names}

    async def echo(name: str, process: asyncssh.SSHClientProcess[bytes]) -> bytes:
        process.stdin.write(sent[name])
        return await process.stdout.readexactly(len(sent[name]))

    async with asyncio.timeout(60):
        got = await asyncio.gather(*(echo(name, one) for name, one in zip(names, sessions, strict=True)))
    assert got == [sent[name] for name in names]
    assert set((await client.agents()).values()) == {"served"}
    assert len(house.pids()) == 1


async def test_alone_for_long_it_ends_by_itself_and_leaves_no_socket(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "g", host="127.0.0.1", port=0, linger_s=0.1)
    async with asyncio.timeout(20):
        await gateway.run()
    assert not (tmp_path / "g" / "control.sock").exists()


async def test_a_folder_with_a_long_path_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    gateway = asyncio.create_task(GatewayProcess(folder, host="127.0.0.1", port=0, linger_s=60).run())
    async with asyncio.timeout(20):
        while not (folder / "control.sock").exists():  # noqa: ASYNC110  (else the client starts one of its own)
            await asyncio.sleep(0.02)
    client = GatewayClient(folder, listen=("127.0.0.1", 0))
    keeping = asyncio.create_task(client.run())
    async with asyncio.timeout(20):
        while client.gate is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        with pytest.raises(AlreadyThereError):
            await GatewayProcess(folder, host="127.0.0.1", port=0).run()
        await client.part()
        await gateway
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GatewayError) as caught:
        await GatewayProcess(tmp_path / "file" / "g", host="127.0.0.1", port=0).run()
    assert "cannot be used" in caught.value.message
