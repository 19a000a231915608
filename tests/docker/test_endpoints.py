"""Engines that are elsewhere: over TCP, with TLS and without, and over SSH. Each is a real engine of the test's own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import docker
import pytest

from provisioner.backends.catalogue import make_backend
from provisioner.backends.contract import Backend, Ended, InstanceState, Order, SecretFile
from provisioner.config import Ssh, Tls
from provisioner.model.agent import new_agent_name
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import BUSYBOX, Provider, output, run, until
from tests.second_engine import SecondEngine, why_not
from tests.sidecar_process import free_port

SSHD_IMAGE = "jenkins-provisioner-test/sshd:latest"
OWNER = f"ways-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, kw_only=True)
class Way(Provider):
    """Settings of a provider that is elsewhere."""

    backend: str = "docker"
    network: str | None = "none"
    tls: Tls | None = None  # type: ignore[assignment]
    ssh: Ssh | None = None  # type: ignore[assignment]
    timeout_s: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The second engine, and how it is reached."""

    engine: SecondEngine
    tls: Way
    plain: Way

    def files(self, name: str = "client", ca: str = "ca") -> Tls:
        return Tls.model_validate(self.engine.files(name, ca))


@pytest.fixture(scope="module")
def elsewhere(client: docker.APIClient) -> Iterator[Elsewhere]:
    if reason := why_not():
        pytest.skip(reason)
    engine = SecondEngine().with_tls()
    try:
        engine.start()
        engine.load(BUSYBOX)
        way = Way(endpoint=engine.tls_endpoint)
        made = Elsewhere(engine=engine, tls=way, plain=way)
        yield replace(made, tls=replace(way, tls=made.files()))
    finally:
        engine.remove()


@pytest.fixture
async def open_backend() -> AsyncIterator[list[Backend]]:
    """What is appended is closed at the end."""
    made: list[Backend] = []
    yield made
    for backend in made:
        await backend.close()


def order(script: str) -> Order:
    return Order(
        agent=new_agent_name("way"),
        owner=OWNER,
        image=BUSYBOX,
        command=("/bin/sh", "-c", script),
        remote_fs="/home/jenkins/agent",
        files=(SecretFile(name="secret", content=b"hush"),),
        agent_jar=b"a jar" * 1000,
        pull="never",
    )


async def whole_life(backend: Backend, engine: SecondEngine) -> None:
    """Everything the lifecycle asks of a backend, once."""
    await backend.open()
    assert (await backend.ping()).startswith("Docker ")
    ends: list[str] = []

    async def listen() -> None:
        async for ended in backend.events():
            assert isinstance(ended, Ended)
            ends.append(ended.agent)

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(60):
        while not ends:  # the stream may begin only after the first of them
            first = order("true")
            await run(backend, first)
            await asyncio.sleep(0.3)
            await backend.stop(first.agent, {})
    speaks = order("cat /run/jenkins-provisioner/secret; echo; wc -c < /opt/jenkins-provisioner/agent.jar")
    ids, _ = await run(backend, speaks)
    assert await output(backend, speaks.agent, ids) == ("hush", "5000")
    lives = order("exec sleep 600")
    ids, _ = await run(backend, lives)
    await until(backend, lives.agent, ids, InstanceState.RUNNING)
    assert (await backend.stats(lives.agent, ids)).pids
    assert {found.agent for found in (await backend.listing(OWNER)).found} == {speaks.agent, lives.agent}
    engine_client = engine.client()
    names = {name for c in engine_client.containers() for name in c["Names"]}
    engine_client.close()
    assert f"/{lives.agent}" in names, "it runs on the engine that was named"
    for one in (speaks, lives):
        await backend.stop(one.agent, {})
    assert not (await backend.listing(OWNER)).found
    for _ in range(200):
        if {speaks.agent, lives.agent} <= set(ends):
            break
        await asyncio.sleep(0.05)
    assert {speaks.agent, lives.agent} <= set(ends), "every end is told"
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def problem_of(way: Way, made: list[Backend]) -> str:
    backend = make_backend(way)
    made.append(backend)
    with pytest.raises(LaunchError) as refused:
        await backend.open()
    assert refused.value.reason is Reason.PROVIDER_UNREACHABLE
    return refused.value.message


async def test_an_engine_over_tcp_with_tls(elsewhere: Elsewhere, open_backend: list[Backend]) -> None:
    backend = make_backend(elsewhere.tls)
    open_backend.append(backend)
    await whole_life(backend, elsewhere.engine)


async def test_with_tls_the_wrong_certificates_are_refused_and_say_so(
    elsewhere: Elsewhere, open_backend: list[Backend]
) -> None:
    way = elsewhere.tls
    said = await problem_of(replace(way, tls=elsewhere.files(ca="other")), open_backend)
    assert "certificate verify failed" in said
    said = await problem_of(replace(way, tls=elsewhere.files("stranger")), open_backend)
    assert "bad certificate" in said or "unknown ca" in said.lower() or "Connection reset" in said, said
    said = await problem_of(replace(way, endpoint=str(way.endpoint).replace("127.0.0.1", "localhost")), open_backend)
    assert "certificate is not valid for 'localhost'" in said
    said = await problem_of(replace(way, tls=elsewhere.files("nobody")), open_backend)
    assert "nobody" in said or "Path to a certificate" in said, said
    said = await problem_of(elsewhere.plain, open_backend)
    assert "does not answer" in said


async def test_an_engine_over_plain_tcp_on_loopback(client: docker.APIClient, open_backend: list[Backend]) -> None:
    if reason := why_not():
        pytest.skip(reason)
    port = free_port()
    engine = SecondEngine(hosts=(f"tcp://127.0.0.1:{port}",), options=("--tls=false",))
    try:
        engine.start()
        engine.load(BUSYBOX)
        backend = make_backend(Way(endpoint=f"tcp://127.0.0.1:{port}"))
        open_backend.append(backend)
        await whole_life(backend, engine)
    finally:
        engine.remove()


class Sshd:
    """A real OpenSSH server with the docker command, beside the second engine."""

    def __init__(self, client: docker.APIClient, engine: SecondEngine, folder: Path) -> None:
        self.client, self.folder, self.port = client, folder, free_port()
        for name in ("host", "ours", "strange", "bare"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        program = shutil.which("docker")
        assert program is not None
        script = (
            "mkdir -p /run/sshd /root/.ssh && cp /keys/ours.pub /root/.ssh/authorized_keys && "
            "echo 'command=\"docker-is-not-here\"' $(cat /keys/bare.pub) >> /root/.ssh/authorized_keys && "
            "chmod 700 /root/.ssh && "
            "cp /keys/host /etc/ssh/host && chmod 600 /etc/ssh/host && exec /usr/sbin/sshd -D -e "
            f"-o ListenAddress=127.0.0.1 -p {self.port} -h /etc/ssh/host -o PasswordAuthentication=no"
        )
        made = client.create_container(
            SSHD_IMAGE,
            ["/bin/sh", "-c", script],
            host_config=client.create_host_config(
                network_mode="host",
                binds=[f"{folder}:/keys:ro", f"{program}:/usr/bin/docker:ro", f"{engine.folder}:/var/run/docker:ro",
                       f"{engine.socket}:/var/run/docker.sock"],
            ),
            labels={"jenkins-provisioner-test": "sshd"},
        )  # fmt: skip
        self.id = str(made["Id"])
        client.start(self.id)
        public = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")
        (folder / "empty").write_text("")
        (folder / "other").write_text(
            f"[127.0.0.1]:{self.port} {' '.join((folder / 'strange.pub').read_text().split()[:2])}\n"
        )
        deadline = time.monotonic() + 30
        while b"Server listening" not in client.logs(self.id):
            assert time.monotonic() < deadline, client.logs(self.id)
            time.sleep(0.05)

    def way(self, *, key: str = "ours", known: str = "known") -> Way:
        files = Ssh(key=str(self.folder / key), known_hosts=str(self.folder / known))
        return Way(endpoint=f"ssh://root@127.0.0.1:{self.port}", ssh=files)

    def run(self, *words: str) -> None:
        made = self.client.exec_create(self.id, list(words))
        self.client.exec_start(made["Id"])

    def remove(self) -> None:
        self.client.remove_container(self.id, force=True, v=True)


@pytest.fixture(scope="module")
def sshd(client: docker.APIClient, elsewhere: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if not client.images(SSHD_IMAGE):
        pytest.skip(f"no image {SSHD_IMAGE} (jenkins-test/images.sh sshd)")
    made = Sshd(client, elsewhere.engine, tmp_path_factory.mktemp("ssh"))
    yield made
    made.remove()


async def test_an_engine_over_ssh(elsewhere: Elsewhere, sshd: Sshd, open_backend: list[Backend]) -> None:
    backend = make_backend(sshd.way())
    open_backend.append(backend)
    await whole_life(backend, elsewhere.engine)


async def test_over_ssh_a_burst_is_not_held_up_by_the_sessions_that_one_login_may_have(
    sshd: Sshd, open_backend: list[Backend]
) -> None:
    backend = make_backend(sshd.way())
    open_backend.append(backend)
    await backend.open()
    orders = [order("exec sleep 600") for _ in range(30)]
    await asyncio.gather(*(run(backend, one) for one in orders))
    listed = {found.agent for found in (await backend.listing(OWNER)).found if found.kind == "container"}
    assert listed == {one.agent for one in orders}
    await asyncio.gather(*(backend.stop(one.agent, {}) for one in orders))
    assert not (await backend.listing(OWNER)).found


async def test_over_ssh_a_broken_connection_is_told_and_the_next_one_works(
    sshd: Sshd, open_backend: list[Backend]
) -> None:
    backend = make_backend(sshd.way())
    open_backend.append(backend)
    await backend.open()

    async def an_end() -> Ended:
        return await anext(backend.events())

    listening = asyncio.create_task(an_end())
    async with asyncio.timeout(60):
        while not listening.done():  # it may not listen yet
            await asyncio.wait({listening}, timeout=0.5)
            sshd.run("sh", "-c", "for s in $(ps -o pid=,args= -e | awk '/sshd: root/ {print $1}'); do kill $s; done")
    with pytest.raises(LaunchError) as broken:
        await listening
    assert broken.value.reason is Reason.PROVIDER_UNREACHABLE
    await backend.open()
    assert (await backend.ping()).startswith("Docker ")


async def test_over_ssh_no_unknown_host_no_wrong_key_and_no_missing_command_is_passed_over(
    sshd: Sshd, open_backend: list[Backend]
) -> None:
    assert "is not among the known hosts" in await problem_of(sshd.way(known="empty"), open_backend)
    assert "not the one in the known hosts" in await problem_of(sshd.way(known="other"), open_backend)
    assert "does not let root log in" in await problem_of(sshd.way(key="strange"), open_backend)
    said = await problem_of(sshd.way(key="bare"), open_backend)
    assert "docker-is-not-here" in said
    assert "not found" in said
    nobody = replace(sshd.way(), endpoint=f"ssh://root@127.0.0.1:{free_port()}")
    assert "does not answer" in await problem_of(nobody, open_backend)
    assert "No such file" in await problem_of(sshd.way(key="nothing"), open_backend)


@pytest.mark.parametrize("over", ["tls", "ssh"])
async def test_a_channel_over_any_way(elsewhere: Elsewhere, sshd: Sshd, open_backend: list[Backend], over: str) -> None:
    backend = make_backend(sshd.way() if over == "ssh" else elsewhere.tls)
    open_backend.append(backend)
    echo = replace(order("echo up; cat; exit 3"), channel=True)
    ids, _ = await run(backend, echo)
    channel = await backend.open_channel(echo.agent, ids)
    sent = bytes(range(256)) * 8192
    writing = asyncio.create_task(channel.write(sent))
    got = b""
    async with asyncio.timeout(30):
        while len(got) < 3 + len(sent):
            got += await channel.read()
    await writing
    assert got == b"up\n" + sent
    await channel.close()
    await until(backend, echo.agent, ids, InstanceState.EXITED)
    assert (await backend.status(echo.agent, ids)).exit_code == 3
    await backend.stop(echo.agent, ids)
