from __future__ import annotations

import io
import shutil
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from tests.contract.backend_rigs import BUSYBOX, DockerRig, docker_answers, make_busybox, remove_jar_volume
from tests.docker.fake_registry import Registry


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def client() -> Iterator[docker.APIClient]:
    if not docker_answers():
        pytest.skip("no Docker engine answers")
    make_busybox()
    made = docker.APIClient(version="auto", timeout=60)
    yield made
    made.close()
    remove_jar_volume()


@pytest.fixture
async def rig(client: docker.APIClient, request: pytest.FixtureRequest) -> AsyncIterator[DockerRig]:
    """Containers on the network that the test's module names with NETWORK; else on the engine's own."""
    made = DockerRig()
    if network := getattr(request.module, "NETWORK", None):
        made.provider = replace(made.provider, network=network)
    yield made
    await made.close()


@pytest.fixture
def registry(client: docker.APIClient) -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()
    if client.images(made.image):
        client.remove_image(made.image, force=True)


@pytest.fixture
def debian_registry(client: docker.APIClient, tmp_path: Path) -> Iterator[str]:
    """The address of a real, empty registry."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry here (Debian package of that name)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/store}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with subprocess.Popen([program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            run.terminate()


@pytest.fixture
def named_user_image(client: docker.APIClient) -> Iterator[str]:
    """The tiny image with a user that is known by name alone, and an anonymous volume where the agent works."""
    name = f"jenkins-provisioner-test/named:{uuid.uuid4().hex[:8]}"
    container = client.create_container(BUSYBOX, ["/bin/sh"])["Id"]
    try:
        passwd = b"root:x:0:0:root:/root:/bin/sh\nbuilder:x:4711:4712:b:/:/bin/sh\n"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo("etc/passwd")
            entry.size = len(passwd)
            tar.addfile(entry, io.BytesIO(passwd))
        client.put_archive(container, "/", packed.getvalue())
        repository, tag = name.rsplit(":", 1)
        client.commit(container, repository, tag, changes=["USER builder", "VOLUME /home/jenkins/agent"])
    finally:
        client.remove_container(container, force=True)
    yield name
    client.remove_image(name, force=True)
