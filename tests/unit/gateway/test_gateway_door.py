"""What the gateway lets in, and all that it does not."""

from __future__ import annotations

import asyncio
import socket
import struct

import asyncssh
import pytest

from provisioner.gateway import ssh
from provisioner.gateway.admissions import Stage
from tests.fakes.channel import FakeChannel
from tests.unit.gateway.door_rig import JAVA, Rig


async def test_the_launchers_course_from_its_first_look_to_the_agents_end(rig: Rig) -> None:
    rig.admit("a")
    await rig.open("a")
    connection = await rig.dial("a")
    nothing = await connection.run("exit 0")
    assert (nothing.exit_status, nothing.stdout, nothing.stderr) == (0, "", "")
    assert (await connection.run("set")).exit_status == 0
    looked = await connection.run("java -version")
    assert looked.exit_status == 0
    assert str(looked.stderr).splitlines() == list(JAVA)
    process = await rig.run_agent(connection, "a")
    process.stdin.write(bytes(range(256)))
    assert await process.stdout.readexactly(256) == bytes(range(256))
    await rig.channels["a"].end()
    assert await process.stdout.read() == b""
    assert JAVA[0].encode() in await process.stderr.read()
    await process.wait()
    assert process.exit_status == 7


async def test_the_launchers_way_by_scp(rig: Rig) -> None:
    rig.admit("a")
    await rig.open("a")
    connection = await rig.dial("a")
    root = rig.root("a")
    assert (await connection.run(f"test -d {root}")).exit_status == 0
    assert (await connection.run(f"rm {root}/remoting.jar")).exit_status == 1
    (rig.folder / "remoting.jar").write_bytes(b"PK the agent's jar " * 20_000)
    process = await connection.create_process(f"scp -t -d {root}", encoding=None)
    data = (rig.folder / "remoting.jar").read_bytes()
    process.stdin.write(f"C0644 {len(data)} remoting.jar\n".encode() + data + b"\0E\n")
    process.stdin.write_eof()
    assert set(await process.stdout.read()) == {0}
    await process.wait()
    assert process.exit_status == 0
    agent = await connection.create_process(rig.command("a"), encoding=None)
    assert await agent.stdout.readexactly(15) == b"<===[hello]===>"


async def test_a_session_waits_for_an_instance_that_still_starts(rig: Rig) -> None:
    rig.admit("a")
    connection = await rig.dial("a")
    await rig.bring_jar(connection, "a")
    process = await connection.create_process(rig.command("a"), encoding=None)
    reading = asyncio.create_task(process.stdout.readexactly(15))
    await asyncio.sleep(0.1)
    assert not reading.done()
    await rig.open("a")
    assert await reading == b"<===[hello]===>"


async def refused(rig: Rig, agent: str, key: asyncssh.SSHKey | None = None) -> None:
    with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost, ConnectionResetError)):  # noqa: PT012
        connection = await rig.dial(agent, key)
        await connection.run("exit 0", check=True)


async def test_another_agents_key_opens_nothing(rig: Rig) -> None:
    rig.admit("a")
    rig.admit("b")
    await refused(rig, "a", rig.keys["b"])
    await refused(rig, "b", rig.keys["a"])
    await refused(rig, "nobody", rig.keys["a"])
    await refused(rig, "a", asyncssh.generate_private_key("ssh-ed25519"))
    assert (await (await rig.dial("a")).run("exit 0")).exit_status == 0


async def test_another_agents_folder_is_not_there(rig: Rig) -> None:
    rig.admit("a")
    rig.admit("b")
    await rig.open("b")
    connection = await rig.dial("a")
    await rig.bring_jar(connection, "a")
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.run(rig.command("b"))
    async with connection.start_sftp_client() as sftp:
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await sftp.open(f"{rig.root('b')}/remoting.jar", "wb")


async def test_a_session_is_used_once(rig: Rig) -> None:
    rig.admit("a")
    channel = await rig.open("a")
    connection = await rig.dial("a")
    process = await rig.run_agent(connection, "a")
    await refused(rig, "a")  # while it is on
    again = await connection.run(rig.command("a"))
    assert again.exit_status != 0
    assert "had its one session" in str(again.stderr)
    process.stdin.write(b"still there")
    assert await process.stdout.readexactly(11) == b"still there"
    connection.close()
    await rig.until(lambda: channel.closed)
    await refused(rig, "a")  # and after its end


async def test_a_connection_that_never_ran_the_agent_may_come_again(rig: Rig) -> None:
    """The launcher dials again after a time-out."""
    admission = rig.admit("a")
    await rig.open("a")
    first = await rig.dial("a")
    await first.run("exit 0")
    first.close()
    await rig.until(lambda: admission.connection is None)
    await rig.run_agent(await rig.dial("a"), "a")


async def test_a_revoked_agent_is_hung_up_on_and_does_not_come_back(rig: Rig) -> None:
    rig.admit("a")
    channel = await rig.open("a")
    connection = await rig.dial("a")
    process = await rig.run_agent(connection, "a")
    await rig.admissions.revoke("a")
    assert channel.closed
    await process.wait()
    await connection.wait_closed()
    await refused(rig, "a")
    assert rig.admissions.get("a") is None


async def test_the_agent_does_not_outlive_its_session(rig: Rig) -> None:
    admission = rig.admit("a")
    channel = await rig.open("a")
    connection = await rig.dial("a")
    await rig.run_agent(connection, "a")
    connection.abort()
    await rig.until(lambda: channel.closed and admission.stage is Stage.ENDED)


async def test_no_shell_terminal_or_other_subsystem(rig: Rig) -> None:
    rig.admit("a")
    await rig.open("a")
    connection = await rig.dial("a")
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.create_process()
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.create_process(term_type="xterm", command="exit 0", request_pty="force")
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.create_process(subsystem="netconf")
    for command in ("sh", "id", "exit 0; id", "cat /etc/passwd", "java -jar remoting.jar"):
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run(command)


async def test_the_agent_does_not_begin_without_its_jar(rig: Rig) -> None:
    rig.admit("a")
    await rig.open("a")
    connection = await rig.dial("a")
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.create_process(rig.command("a"))


async def test_no_forwarding_of_any_kind(rig: Rig) -> None:
    rig.admit("a")
    connection = await rig.dial("a")
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_connection("127.0.0.1", rig.port)
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_unix_connection("/var/run/docker.sock")
    with pytest.raises(asyncssh.ChannelListenError):
        await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", rig.port)
    with pytest.raises(asyncssh.ChannelListenError):
        await connection.forward_remote_path(str(rig.folder / "sock"), "/tmp/other.sock")
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_tun()
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_tap()


async def test_no_agent_and_no_display_is_forwarded(rig: Rig) -> None:
    """The library's client would not tell, so these are asked for by hand."""
    rig.admit("a")
    connection = await rig.dial("a")
    raw = _RawChannel(connection)
    await raw.open()
    x11 = b"\0" + _text(b"MIT-MAGIC-COOKIE-1") + _text(b"0" * 32) + struct.pack(">I", 0)
    pty = _text(b"xterm") + struct.pack(">IIII", 80, 24, 0, 0) + _text(b"\0")
    answers: dict[str, bool] = {}
    for name, content in (("auth-agent-req@openssh.com", b""), ("x11-req", x11), ("pty-req", pty)):
        answers[name] = await raw.request(name.encode(), content)
    assert answers == {"auth-agent-req@openssh.com": False, "x11-req": False, "pty-req": False}


async def test_passwords_and_questions_are_not_even_asked_for(rig: Rig) -> None:
    rig.admit("a")
    for methods in (["password"], ["keyboard-interactive"], ["hostbased"], ["gssapi-with-mic"], ["none"]):
        with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost, ValueError)):
            await asyncssh.connect(
                "127.0.0.1",
                rig.port,
                username="a",
                password="guess",
                preferred_auth=methods,
                known_hosts=None,
                config=[],
                client_keys=None,
                agent_path=None,
            )


async def test_too_many_keys_end_the_connection(rig: Rig) -> None:
    rig.admit("a")
    wrong = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(ssh.MOST_TRIES + 2)]
    with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost)):
        await asyncssh.connect(
            "127.0.0.1",
            rig.port,
            username="a",
            client_keys=[*wrong, rig.keys["a"]],  # the right one comes too late
            known_hosts=None,
            config=[],
            agent_path=None,
        )


async def test_packets_that_are_too_long_end_the_connection(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    assert (await reader.readline()).startswith(b"SSH-2.0-")
    writer.write(b"SSH-2.0-test\r\n" + struct.pack(">I", 1 << 30) + b"\0" * 4096)
    async with asyncio.timeout(10):
        rest = await reader.read()  # the key exchange's first packet, a farewell, the end
    assert len(rest) < 100_000
    writer.close()


async def test_a_first_line_without_end_ends_the_connection(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(b"x" * 1_000_000)
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):  # noqa: PT012
            while await reader.read(65536):
                pass
            raise ConnectionResetError
    writer.close()


async def test_who_does_not_log_in_is_hung_up_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.door.close()
    monkeypatch.setattr(ssh, "LOGIN_S", 0.2)
    rig.port = await rig.door.open("127.0.0.1", 0, rig.host_key)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()


async def test_a_thousand_half_open_connections_starve_nobody(rig: Rig) -> None:
    rig.admit("a")
    await rig.open("a")
    idle = []
    loop = asyncio.get_running_loop()
    try:
        for number in range(1000):
            sock = socket.socket()
            sock.setblocking(False)
            idle.append(sock)
            await loop.sock_connect(sock, ("127.0.0.1", rig.port))
            if number % 3 == 0:  # some say half a word
                await loop.sock_sendall(sock, b"SSH-2.0-idle\r\n")
        async with asyncio.timeout(20):
            process = await rig.run_agent(await rig.dial("a"), "a")
            process.stdin.write(b"through")
            assert await process.stdout.readexactly(7) == b"through"
        await rig.until(lambda: rig.door.dropped >= 1000 - ssh.MOST_WAITING)
        assert len(rig.door._waiting) <= ssh.MOST_WAITING
    finally:
        for sock in idle:
            sock.close()


async def test_more_channels_than_the_launcher_needs_are_refused(rig: Rig) -> None:
    rig.admit("a")
    connection = await rig.dial("a")
    many = [
        await connection.create_process(f"scp -t -d {rig.root('a')}", encoding=None) for _ in range(ssh.MOST_CHANNELS)
    ]
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.run("exit 0")
    for process in many:
        process.close()
        await process.wait_closed()
    assert (await connection.run("exit 0")).exit_status == 0


async def test_neither_side_is_read_faster_than_the_other_takes(rig: Rig) -> None:
    rig.admit("a")
    channel = await rig.open("a", FakeChannel(b"<===[hello]===>"))
    process = await rig.run_agent(await rig.dial("a"), "a")
    size = 24 << 20
    piece = b"0123456789abcdef" * 4096

    async def write() -> None:
        left = size
        while left:
            process.stdin.write(piece)
            await process.stdin.drain()
            left -= len(piece)

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.5)
    assert not writing.done()  # nobody reads the echo, so no more is taken
    assert rig.admissions.all()[0].bytes_in < size // 2
    left = size
    while left:
        data = await process.stdout.read(1 << 20)
        assert data
        left -= len(data)
    await writing
    assert channel.most < 2 << 20


def test_the_host_key_is_made_once_and_readable_by_us_alone(rig: Rig) -> None:
    path = rig.folder / "host_key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert ssh.public_line(ssh.host_key(path)) == ssh.public_line(rig.host_key)
    assert ssh.public_line(rig.host_key).split()[0] == "ssh-ed25519"


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class _RawChannel:
    """A session channel on which anything can be requested."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._channel = asyncssh.channel.SSHClientChannel(
            connection, asyncio.get_running_loop(), "strict", None, "strict", 1 << 20, 32768
        )

    async def open(self) -> None:
        await self._channel._open(b"session")
        self._channel._session = asyncssh.SSHClientSession()

    async def request(self, name: bytes, content: bytes) -> bool:
        return bool(await self._channel._make_request(name, content))
