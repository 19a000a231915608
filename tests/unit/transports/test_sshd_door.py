"""The SSH server of an instance: who dials it without a key keeps nobody out."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import asyncssh

from provisioner.sshd.server import Options, serve


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_of_many_who_show_no_key_the_oldest_go_and_the_controller_comes_in(tmp_path: Path) -> None:
    host, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    host.write_private_key(tmp_path / "host")
    user.write_public_key(tmp_path / "authorized")
    port = free_port()
    options = Options(
        port=port,
        host_key=tmp_path / "host",
        authorized_keys=tmp_path / "authorized",
        root=tmp_path,
        command=("true",),
    )
    serving = asyncio.create_task(serve(options))
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        async with asyncio.timeout(30):
            while len(idle) < 64:
                try:
                    idle.append(await asyncio.open_connection("127.0.0.1", port))
                except ConnectionRefusedError:  # it is about to listen
                    await asyncio.sleep(0.01)
            async with asyncssh.connect(
                "127.0.0.1", port, username="jenkins", client_keys=[user], known_hosts=None, config=None
            ) as connection:
                assert (await connection.run("exit 7")).exit_status == 7
            await idle[0][0].read()  # to the end: it was hung up on
    finally:
        serving.cancel()
        for _, writer in idle:
            writer.close()
        await asyncio.gather(serving, return_exceptions=True)
