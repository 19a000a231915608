"""Builds over every transport in every kind of image, with a real controller and a real engine.

Each cell is a freestyle and a Pipeline job: a shell step, a stash that crosses to another agent, an artifact. A few
cells run in the suite, with a small artifact; the others are slow, and with SLOW=1 the artifact has 100 MB.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from controller import RealController

from provisioner.backends.docker import runtime, ssh_server
from provisioner.transports.keys import agent_keys
from tests.jenkins.docker_plant import BUSYBOX, JAVA, MUSL, SSHD, DockerPlant, engine_with
from tests.leaks import OWNER_LABEL

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

IMAGES: dict[str, dict[str, Any]] = {
    "debian without java": {"java": "injected"},
    "musl": {"java": "injected"},
    "static busybox": {"java": "injected"},
    "with java": {"java": "image"},
    "uid 1000": {"java": "injected", "run_as": "1000:1000"},
    "read-only root": {"java": "injected", "run_as": "1000:1000", "read_only": True},
    "read-only root with java": {"java": "image", "read_only": True},
}
TRANSPORTS = ("ssh", "ssh-gateway", "tcp", "websocket")
QUICK = {
    ("websocket", "read-only root with java"),
    ("tcp", "static busybox"),
    ("ssh", "read-only root"),
    ("ssh-gateway", "musl"),
}
CELLS = [
    pytest.param(transport, image, id=f"{transport}, {image}", marks=() if quick else pytest.mark.slow)
    for transport in TRANSPORTS
    for image in IMAGES
    for quick in [(transport, image) in QUICK]
]
ROOT = 'while read -r _ at _ how _; do case $at in /) echo "root $how" ;; esac; done </proc/mounts'
#: OpenSSH's server that has the right key for one connection, which is the provisioner's look, and then another.
CHANGES_ITS_KEY = r"""#!/bin/sh
mkdir -p /run/sshd
/usr/sbin/sshd.real -d "$@"
ssh-keygen -q -t ed25519 -N '' -f /tmp/other
for word in "$@"; do
    shift
    case $word in */host_key) word=/tmp/other ;; esac
    set -- "$@" "$word"
done
exec /usr/sbin/sshd.real "$@"
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = engine_with(JAVA, BUSYBOX, SSHD)
    yield client
    client.close()


def script(label: str, megabytes: int) -> str:
    return (
        f"node('{label}') {{\n"
        f"  sh 'id -u; head -c {megabytes * 1_000_000} /dev/urandom > big.bin; wc -c < big.bin; echo small > s'\n"
        "  stash includes: 's', name: 's'\n"
        "  archiveArtifacts 'big.bin'\n"
        "}\n"
        f"node('{label}') {{\n  unstash 's'\n  sh 'echo again $(cat s)'\n}}\n"
    )


@pytest.mark.parametrize(("transport", "image"), CELLS)
def test_builds_run_over_every_transport_in_every_image(
    plant: DockerPlant, without_java: str, transport: str, image: str
) -> None:
    for problem in (runtime.problem(), ssh_server.problem() if transport == "ssh" else None):
        if problem is not None:
            pytest.skip(problem)
    if image == "musl":
        engine_with(MUSL).close()
    megabytes = 100 if os.environ.get("SLOW") else 2
    known = {"musl": MUSL, "static busybox": BUSYBOX, "uid 1000": BUSYBOX, "debian without java": without_java}
    plant.start(image=known.get(image, JAVA), transport=transport, **IMAGES[image])
    began = time.monotonic()
    console = plant.ended(plant.queued(plant.freestyle("f", f"{ROOT}; echo x >/tmp/x; echo built on $NODE_NAME")))
    assert "\nbuilt on one-" in console
    assert ("\nroot ro," in console) == ("read_only" in IMAGES[image])
    freestyle_s = time.monotonic() - began
    began = time.monotonic()
    pipeline = plant.queued(plant.pipeline("p", script(plant.owner, megabytes)))
    assert "again small" in plant.ended(pipeline, within_s=600)
    artifact = plant.jenkins.request("GET", f"job/{pipeline}/1/artifact/big.bin")
    assert len(artifact.body) == megabytes * 1_000_000
    print(f"{transport}, {image}: freestyle {freestyle_s:.1f} s, Pipeline {time.monotonic() - began:.1f} s")
    plant.nothing_left()


@pytest.mark.parametrize(
    "read_only", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["any root", "read-only root"]
)
def test_the_image_s_own_openssh_server_works_too(plant: DockerPlant, read_only: bool) -> None:
    server = {"server": "image", "user": "jenkins"}
    plant.start(image=SSHD, transport="ssh", java="image", ssh=server, read_only=read_only)
    console = plant.ended(
        plant.queued(plant.freestyle("f", "id -un; (echo x >/home/jenkins/x) 2>/dev/null || echo closed"))
    )
    assert "jenkins\n" in console
    assert ("closed" in console.splitlines()) == read_only
    plant.nothing_left()


@pytest.mark.slow
def test_port_of_the_engine_s_host_is_dialled_where_containers_are_not_reached(plant: DockerPlant) -> None:
    plant.start(image=BUSYBOX, transport="ssh", java="injected", provider={"ssh_host": "127.0.0.1"})
    console = plant.ended(plant.queued(plant.freestyle("f", "echo built on $NODE_NAME")))
    assert "The controller dials 127.0.0.1 port " in console
    plant.nothing_left()


@pytest.fixture
def changes_its_key(engine: docker.DockerClient) -> Iterator[str]:
    """An image whose SSH server shows another key from the second connection on."""
    name = f"jenkins-provisioner-test/changes-its-key:{random.randrange(16**8):08x}"
    put = 'mv /usr/sbin/sshd /usr/sbin/sshd.real && printf %s "$1" >/usr/sbin/sshd && chmod 755 /usr/sbin/sshd'
    made = engine.containers.create(SSHD, ["sh", "-c", put, "sh", CHANGES_ITS_KEY], user="0")
    try:
        made.start()
        assert made.wait()["StatusCode"] == 0, made.logs()
        made.commit(*name.rsplit(":", 1))
    finally:
        made.remove(force=True)
    yield name
    engine.images.remove(name, force=True)


@pytest.mark.slow
def test_another_host_key_that_the_controller_itself_sees_ends_the_launch(
    plant: DockerPlant, changes_its_key: str
) -> None:
    server = {"server": "image", "user": "jenkins"}
    plant.start(image=changes_its_key, transport="ssh", java="image", ssh=server, retries=0)
    job = plant.queued(plant.freestyle("f", "echo never"))
    assert plant.jenkins.wait_build(job, within_s=120)["result"] == "NOT_BUILT", plant.sidecar.log()
    console = plant.console(job)
    assert "another SSH server than the instance's answered the controller" in console
    assert "(host_key_mismatch)" in console
    plant.nothing_left()


@pytest.fixture
def no_agent_port(real_jenkins: RealController) -> Iterator[None]:
    """A controller whose TCP port for agents is disabled."""
    before = real_jenkins.script("print(Jenkins.get().slaveAgentPort)").strip()
    real_jenkins.script("Jenkins.get().setSlaveAgentPort(-1)")
    yield
    real_jenkins.script(f"Jenkins.get().setSlaveAgentPort({before})")


@pytest.fixture
def closed_agent_port(real_jenkins: RealController) -> Iterator[None]:
    """A controller that announces a port at which nothing listens."""
    real_jenkins.script("hudson.TcpSlaveAgentListener.CLI_PORT = 1")
    yield
    real_jenkins.script("hudson.TcpSlaveAgentListener.CLI_PORT = null")


def doctor_says(plant: DockerPlant) -> str:
    """What fails of the agent port."""
    said = plant.sidecar.verb("doctor", "--json", "--read-only", status=1)
    (found,) = [one for one in json.loads(said)["findings"] if one["check"] == "agent port"]
    assert found["verdict"] == "fail"
    return f"{found['text']}; {found['fix']}"


@pytest.mark.slow
@pytest.mark.usefixtures("no_agent_port")
def test_agent_port_that_is_disabled_is_told_by_the_launch_and_by_the_doctor(plant: DockerPlant) -> None:
    plant.start(image=JAVA, transport="tcp", retries=0)
    job = plant.queued(plant.freestyle("f", "echo never"))
    assert plant.jenkins.wait_build(job, within_s=60)["result"] == "NOT_BUILT", plant.sidecar.log()
    console = plant.console(job)
    assert "the controller has no TCP port for agents: it is disabled in its security settings" in console
    assert "container" not in console, "nothing is started for it"
    assert "it has no TCP port for agents, and a template uses it; set the TCP port for inbound" in doctor_says(plant)
    plant.nothing_left()


@pytest.mark.slow
@pytest.mark.usefixtures("closed_agent_port")
def test_agent_port_that_is_closed_is_told_by_the_launch_and_by_the_doctor(plant: DockerPlant) -> None:
    plant.start(image=JAVA, transport="tcp", retries=0, timeouts={"connect": 20})
    job = plant.queued(plant.freestyle("f", "echo never"))
    assert plant.jenkins.wait_build(job, within_s=120)["result"] == "NOT_BUILT", plant.sidecar.log()
    console = plant.console(job)
    assert "127.0.0.1:1 cannot be reached from here: Connection refused" in console, console
    assert "127.0.0.1:1 cannot be reached from here: Connection refused; open it for" in doctor_says(plant)
    plant.nothing_left()


@pytest.mark.parametrize(
    ("transport", "bridge"),
    [
        ("ssh", "script"),
        pytest.param("ssh", "off", marks=pytest.mark.slow),
        pytest.param("ssh-gateway", "script", marks=pytest.mark.slow),
        pytest.param("ssh-gateway", "off", marks=pytest.mark.slow),
    ],
)
def test_a_build_that_a_person_stops_ends_with_its_dialled_container(
    plant: DockerPlant, transport: str, bridge: str
) -> None:
    plant.start(bridge=bridge, image=BUSYBOX, transport=transport, java="injected", run_as="1000:1000")
    job = plant.queued(plant.freestyle("f", "sleep 600"))
    plant.stop_in_shell(job)
    result = plant.jenkins.wait_build(job)["result"]
    assert result == "ABORTED", f"{plant.console(job)}\n{plant.sidecar.log()}"
    plant.nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["websocket", "tcp", "ssh"])
def test_no_secret_is_anywhere_but_where_it_belongs(plant: DockerPlant, transport: str) -> None:
    """For the gateway: `test_ssh_gateway.py`."""
    plant.start(image=BUSYBOX, transport=transport, java="injected", run_as="1000:1000")
    job = plant.queued(plant.freestyle("f", "echo begun; env; sleep 40"))
    plant.says(job, "\nbegun", within_s=240)
    (container,) = plant.engine.containers.list(filters={"label": f"{OWNER_LABEL}={plant.owner}"})
    ask = f"print(Jenkins.get().getComputer('{container.name}').jnlpMac)"
    secret = plant.jenkins.request("POST", "scriptText", form={"script": ask}).text.strip()[:64]
    keys = agent_keys(secret)
    words = [secret, *(pair.private.splitlines()[3] for pair in (keys.user, keys.host))]
    assert all(len(word) >= 40 for word in words)
    name, content = ("host_key", keys.host.private) if transport == "ssh" else ("secret", secret)
    held = plant.engine.api.exec_create(container.id, ["cat", f"/run/jenkins-provisioner/{name}"])
    assert plant.engine.api.exec_start(held["Id"]).decode() == content  # so these are the right words
    places = {
        "inspect": json.dumps(plant.engine.api.inspect_container(str(container.id))),
        "container's log": container.logs().decode(),
        "console": plant.console(job),
        "sidecar's log": plant.sidecar.log(10_000),
        "node": plant.jenkins.request("GET", f"computer/{container.name}/config.xml").text,
    }
    for path in plant.folder.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes().decode(errors="replace")
    for entry in Path("/proc").glob("[0-9]*"):
        for kind in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                places[f"{entry}/{kind}"] = (entry / kind).read_bytes().decode(errors="replace")
    assert [place for place, text in places.items() if any(word in text for word in words)] == []
    plant.ended(job)
    plant.nothing_left()
