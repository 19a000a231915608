from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncssh
import pytest

from provisioner.model.errors import LaunchError, Reason
from provisioner.transports import Setup, transport
from provisioner.transports.dialling import Address, Instance, NotYet, Whom
from provisioner.transports.keys import agent_keys
from provisioner.transports.ssh import Direct, login

SECRET = "ab" * 32
KEYS = agent_keys(SECRET)


@asynccontextmanager
async def server(private: str | asyncssh.SSHKey) -> AsyncIterator[Address]:
    key = asyncssh.import_private_key(private) if isinstance(private, str) else private
    listening = await asyncssh.create_server(asyncssh.SSHServer, "127.0.0.1", 0, server_host_keys=[key])
    try:
        yield Address(host="127.0.0.1", port=listening.get_port())
    finally:
        listening.close()
        await listening.wait_closed()


def instance(address: Address | None, **template: Any) -> Instance:
    async def where() -> Address | None:
        return address

    return Instance(
        agent="tpl-1",
        owner="o",
        secret=SECRET,
        template=template,
        provider="box",
        backend="docker",
        jar="0" * 64,
        ids={},
        root="/work",
        java="/opt/java",
        address=where,
    )


def test_keys_are_the_same_for_a_secret_and_others_for_another() -> None:
    assert agent_keys(SECRET) == KEYS
    other = agent_keys("cd" * 32)
    assert len({KEYS.user.public, KEYS.host.public, other.user.public, other.host.public}) == 4
    for pair in (KEYS.user, KEYS.host):
        assert asyncssh.import_private_key(pair.private).export_public_key().decode().strip() == pair.public
        assert pair.private not in repr(KEYS)


def test_only_the_halves_that_it_needs_go_into_the_instance() -> None:
    files = {file.name: file for file in transport("ssh").files(Setup(name="n", agent_url="", secret=SECRET))}
    assert set(files) == {"host_key", "authorized_keys"}
    assert files["host_key"].content.decode() == KEYS.host.private
    assert not files["host_key"].public
    assert files["authorized_keys"].content.decode() == KEYS.user.public + "\n"
    everything = b"".join(file.content for file in files.values()).decode()
    assert KEYS.user.private not in everything
    assert SECRET not in everything


async def test_an_instance_that_shows_its_key_may_be_dialled() -> None:
    async with server(KEYS.host.private) as address:
        met = await Direct().meet(instance(address))
    assert isinstance(met, Whom)
    assert (met.address, met.host_key, met.private_key) == (address, KEYS.host.public, KEYS.user.private)
    assert met.java == "/opt/java"


async def test_another_key_ends_the_launch() -> None:
    async with server(asyncssh.generate_private_key("ssh-ed25519")) as address:
        with pytest.raises(LaunchError, match="another host key") as caught:
            await Direct().meet(instance(address))
    assert caught.value.reason is Reason.HOST_KEY_MISMATCH


async def test_a_server_without_such_a_key_ends_the_launch() -> None:
    async with server(asyncssh.generate_private_key("ecdsa-sha2-nistp256")) as address:
        with pytest.raises(LaunchError, match="no ssh-ed25519") as caught:
            await Direct().meet(instance(address))
    assert caught.value.reason is Reason.HOST_KEY_MISMATCH


async def test_nothing_there_yet_is_said_so() -> None:
    async with server(KEYS.host.private) as address:
        pass
    met = await Direct().meet(instance(address))
    assert isinstance(met, NotYet)
    assert f"no SSH server answers at 127.0.0.1 port {address.port}" in met.text
    met = await Direct().meet(instance(None))
    assert isinstance(met, NotYet)
    assert met.missing_address


@pytest.mark.parametrize(
    ("template", "user"),
    [
        ({}, "jenkins"),
        ({"run_as": "1000:1000"}, "jenkins"),
        ({"run_as": "ci:ci"}, "ci"),
        ({"ssh": {"server": "image"}}, "root"),
        ({"ssh": {"server": "image"}, "run_as": "1000"}, "root"),
        ({"ssh": {"server": "image", "user": "builder"}, "run_as": "ci"}, "builder"),
    ],
)
def test_who_logs_in(template: dict[str, Any], user: str) -> None:
    assert login(template) == user


def test_the_image_s_own_server_takes_keys_alone_and_forwards_nothing() -> None:
    setup = Setup(name="n", agent_url="", secret=SECRET, template={"ssh": {"server": "image"}})
    command = transport("ssh").command(setup)
    assert command[0] == "sh"
    for option in ("AuthenticationMethods=publickey", "DisableForwarding=yes"):
        assert command[command.index(option) - 1] == "-o"
    assert "{secrets}/host_key" in command
