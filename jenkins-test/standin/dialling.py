"""Nodes that the stand-in dials over SSH, step by step as Jenkins' plugin SSH Build Agents does."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import asyncssh

from standin.jar import agent_jar
from standin.link import AgentLink
from standin.nodes import Dial, Node

if TYPE_CHECKING:
    from standin.world import World

ENTRY = "BasicSSHUserPrivateKey"
MAX_MESSAGE = 1 << 20
RETRY_S = 60.0  # how often the retention strategy tries again


@dataclass(frozen=True, slots=True)
class Login:
    """What an entry says."""

    user: str
    key: str


class GaveUp(Exception):  # noqa: N818
    """The launcher says why and ends."""


def login_of(world: World, entry: str) -> Login:
    kind, text = world.credentials.get(entry, ("", ""))
    if kind != ENTRY:
        raise GaveUp(f"Cannot find SSH User credentials with id: {entry}")
    root = ET.fromstring(text)
    return Login(root.findtext("username") or "", root.findtext("privateKeySource/privateKey") or "")


def start(world: World, node: Node) -> None:
    """Dial, now and again and again until the node is gone."""
    if node.dialling is None or node.dialling.done():
        node.dialling = asyncio.get_running_loop().create_task(_keep(world, node))


async def _keep(world: World, node: Node) -> None:
    while not node.deleted and node.dial is not None:
        if world.starting:
            await asyncio.sleep(0.05)
            continue
        try:
            await _launch(world, node, node.dial)
        except GaveUp as error:
            node.say(str(error))
            node.say("[07/01/24 00:00:00] Launch failed - cleaning up connection")
        await asyncio.sleep(RETRY_S)


async def _launch(world: World, node: Node, dial: Dial) -> None:
    node.say(f"[07/01/24 00:00:00] [SSH] Opening SSH connection to {dial.host}:{dial.port}.")
    connection = await _open(node, dial, login_of(world, dial.entry))
    async with connection:
        node.say("[07/01/24 00:00:00] [SSH] Authentication successful.")
        if (junk := (await connection.run("exit 0", encoding=None)).stdout) not in (None, b""):
            raise GaveUp(f"[SSH] SSH connection reports a garbage before a command execution. {junk!r}")
        node.say(str((await connection.run("set")).stdout))
        await _copy_jar(connection, node.remote_fs.rstrip("/"))
        command = f'cd "{node.remote_fs}" && {dial.java} {dial.options} -jar remoting.jar'
        command += f" -workDir {node.remote_fs} -jar-cache {node.remote_fs}/remoting/jarCache"
        node.say(f"[07/01/24 00:00:00] [SSH] Starting agent process: {command}")
        process = await connection.create_process(f"{dial.prefix}{command}{dial.suffix}", encoding=None)
        await _serve(world, node, process)


async def _open(node: Node, dial: Dial, login: Login) -> asyncssh.SSHClientConnection:
    known = asyncssh.import_known_hosts(f"* {dial.host_key}\n")
    for left in range(dial.retries, -1, -1):
        try:
            return await asyncssh.connect(
                dial.host,
                dial.port,
                username=login.user,
                client_keys=[asyncssh.import_private_key(login.key)],
                known_hosts=known,
                config=None,
                agent_path=None,
                connect_timeout=dial.timeout_s,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            node.say("[07/01/24 00:00:00] [SSH] WARNING: The SSH key for this host does not match the key required")
            raise GaveUp("Key exchange was not finished, connection is closed.") from error
        except (OSError, asyncssh.Error) as error:
            node.say(str(error))
            if isinstance(error, asyncssh.PermissionDenied) or not left:
                raise GaveUp("[07/01/24 00:00:00] [SSH] Authentication failed.") from error
            await asyncio.sleep(1.0)
    raise GaveUp("no more tries")


async def _copy_jar(connection: asyncssh.SSHClientConnection, root: str) -> None:
    try:
        async with connection.start_sftp_client() as files:
            if not await files.exists(root):
                await files.makedirs(root)
            async with files.open(f"{root}/remoting.jar", "wb") as jar:
                await jar.write(agent_jar())
    except asyncssh.SFTPError as error:
        raise GaveUp(f"Could not copy remoting.jar into '{root}' on agent: {error}") from error


async def _serve(world: World, node: Node, process: asyncssh.SSHClientProcess[bytes]) -> None:
    """A JSON text on each line of the command's standard streams is the channel."""

    async def send(message: dict[str, Any]) -> None:
        if process.stdin.is_closing():
            raise ConnectionResetError
        process.stdin.write(json.dumps(message).encode() + b"\n")
        await process.stdin.drain()

    link = AgentLink(send, process.close, secrets.token_hex(16), world.offsets)
    try:
        while line := await process.stdout.readline():
            message = json.loads(line)
            if message.get("op") != "ready":
                link.receive(message)
            elif node.deleted or node.link is not None:
                link.close()
            elif not world.knobs.hang_agents:
                world.connect(node, link, "SSH", node.dial.host if node.dial else "?")
    except (OSError, asyncssh.Error, ValueError) as error:
        node.say(f"ERROR: {error}")
    finally:
        world.disconnect(node, link)
        link.lost()
        process.close()
    node.say("[07/01/24 00:00:00] [SSH] Connection closed.")
