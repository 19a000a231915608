"""What the docker backend does on an engine's bad days; the good ones are tests/contract and tests/docker."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from provisioner.backends.contract import InstanceState, Order, SecretFile
from provisioner.backends.docker.backend import DockerBackend
from provisioner.backends.docker.engine import RefusedError
from provisioner.backends.docker.faults import pull_error, start_error
from provisioner.backends.docker.images import registry_host, split
from provisioner.model.errors import LaunchError, NoRoom, Reason
from tests.unit.backends.fake_engine import Answer, FakeEngine

ORDER = Order(
    agent="tpl-1",
    owner="me",
    image="tiny:1",
    command=("{java}",),
    remote_fs="/work",
    files=(SecretFile(name="secret", content=b"hush"),),
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    made = FakeEngine(tmp_path)
    made.give("POST", "/containers/create", 201, {"Id": "c1"})
    made.give("PUT", "/containers/c1/archive", 200)
    made.give("POST", "/containers/c1/start", 204)
    made.give("DELETE", "/containers/c1", 204)
    made.give("DELETE", "/volumes/tpl-1", 204)
    made.give("GET", "/containers/json", 200, [])
    yield made
    made.close()


@pytest.fixture
async def backend(engine: FakeEngine) -> AsyncIterator[DockerBackend]:
    made = DockerBackend(endpoint=engine.endpoint, timeout_s=0.5)
    yield made
    await made.close()


async def run(backend: DockerBackend, order: Order = ORDER) -> list[object]:
    return [step async for step in backend.start(order)]


async def test_no_engine_at_all_is_told_and_found_when_it_comes(tmp_path: Path) -> None:
    backend = DockerBackend(endpoint=f"unix://{tmp_path}/engine.sock")
    with pytest.raises(LaunchError, match=r"engine\.sock does not answer") as caught:
        await backend.open()
    assert caught.value.reason is Reason.PROVIDER_UNREACHABLE
    assert caught.value.retryable
    engine = FakeEngine(tmp_path)
    try:
        assert await backend.ping() == "Docker 20.10 (linux/amd64, API 1.41)"  # without another `open`
    finally:
        await backend.close()
        engine.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/containers/create"), ("PUT", "/containers/c1/archive"), ("POST", "/containers/c1/start")],
)
async def test_hung_start_times_out_and_a_stop_is_not_held_up(
    engine: FakeEngine, backend: DockerBackend, method: str, path: str
) -> None:
    engine.hang(method, path)
    async with asyncio.timeout(5):
        with pytest.raises(LaunchError) as caught:
            await run(backend)
        assert caught.value.reason is Reason.PROVIDER_UNREACHABLE
        await backend.stop(ORDER.agent, {"container": "c1"})
    assert engine.requests[-2:] == [("DELETE", "/containers/c1"), ("DELETE", "/volumes/tpl-1")]


async def test_hung_reads_do_not_hold_up_a_stop(engine: FakeEngine, backend: DockerBackend) -> None:
    engine.hang("GET", "/containers/c1/json")
    asked = [asyncio.create_task(backend.status("tpl-1", {"container": "c1"})) for _ in range(12)]
    await asyncio.sleep(0)
    await backend.stop(ORDER.agent, {"container": "c1"})
    assert not any(task.done() for task in asked)
    for error in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(error, LaunchError)
        assert error.reason is Reason.PROVIDER_UNREACHABLE


async def test_stop_while_the_engine_makes_the_container_waits_and_removes_it(
    engine: FakeEngine, backend: DockerBackend
) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def make() -> Answer:
        asked.set()
        may_answer.wait(5)
        return 201, {"Id": "c1"}

    engine.call("POST", "/containers/create", make)
    starting = asyncio.create_task(run(backend))
    await asyncio.to_thread(asked.wait, 5)
    stopping = asyncio.create_task(backend.stop(ORDER.agent, {}))
    assert await asyncio.wait({stopping}, timeout=0.1) == (set(), {stopping})
    may_answer.set()
    await stopping
    with pytest.raises(LaunchError) as caught:
        await starting
    assert caught.value.reason is Reason.CANCELLED
    assert ("DELETE", "/containers/c1") in engine.requests
    assert ("POST", "/containers/c1/start") not in engine.requests


async def test_late_container_is_removed_although_the_stop_lost_its_patience(
    engine: FakeEngine, backend: DockerBackend
) -> None:
    asked, may_answer, removed = threading.Event(), threading.Event(), threading.Event()

    def start() -> Answer:
        asked.set()
        may_answer.wait(5)
        return 204, None

    def remove() -> Answer:
        removed.set()
        return 204, None

    engine.call("POST", "/containers/c1/start", start)
    backend = DockerBackend(endpoint=engine.endpoint, timeout_s=5)
    backend._timeout_s = 0.05  # the patience alone
    starting = asyncio.create_task(run(backend))
    await asyncio.to_thread(asked.wait, 5)
    await backend.stop(ORDER.agent, {"container": "c1"})
    engine.call("DELETE", "/containers/c1", remove)
    may_answer.set()
    with pytest.raises(LaunchError) as caught:
        await starting
    assert caught.value.reason is Reason.CANCELLED
    assert removed.is_set()
    await backend.close()


async def test_removal_that_somebody_began_is_waited_for(engine: FakeEngine, backend: DockerBackend) -> None:
    answers = iter([(409, {"message": "removal of container c1 is already in progress"})] * 2 + [(404, {})])
    engine.call("DELETE", "/containers/c1", lambda: next(answers))
    await backend.stop(ORDER.agent, {"container": "c1"})
    assert next(answers, None) is None


async def test_failed_removal_is_never_taken_as_done(engine: FakeEngine, backend: DockerBackend) -> None:
    engine.give("DELETE", "/containers/c1", 500, {"message": "driver failed: device or resource busy"})
    with pytest.raises(LaunchError, match="device or resource busy") as caught:
        await backend.stop(ORDER.agent, {"container": "c1"})
    assert caught.value.retryable
    engine.give("DELETE", "/containers/c1", 404)
    engine.give("DELETE", "/volumes/tpl-1", 409, {"message": "volume is in use - [x]"})
    with pytest.raises(LaunchError, match="in use"):
        await backend.stop(ORDER.agent, {"container": "c1"})


@pytest.mark.parametrize("failing", ["/containers/json", "/volumes", "/networks"])
async def test_listing_with_a_failed_part_is_not_complete(
    engine: FakeEngine, backend: DockerBackend, failing: str
) -> None:
    labels = {"jenkins-provisioner.owner": "me", "jenkins-provisioner.agent": "tpl-1"}
    engine.give("GET", "/containers/json", 200, [{"Id": "c1", "Labels": labels, "Created": int(time.time()) - 100}])
    engine.give("GET", "/volumes", 200, {"Volumes": None, "Warnings": None})
    engine.give("GET", "/networks", 200, [])
    whole = await backend.listing("me")
    assert whole.complete
    assert 99 <= (whole.found[0].age_s or 0) <= 110
    engine.give("GET", failing, 500, {"message": "later"})
    assert not (await backend.listing("me")).complete
    engine.hang("GET", failing)


async def test_listing_with_a_silent_volume_driver_is_not_complete(engine: FakeEngine, backend: DockerBackend) -> None:
    engine.give("GET", "/volumes", 200, {"Volumes": [], "Warnings": ["plugin does not answer"]})
    engine.give("GET", "/networks", 200, [])
    assert not (await backend.listing("me")).complete


async def test_status_during_trouble_is_an_error_and_not_missing(engine: FakeEngine, backend: DockerBackend) -> None:
    engine.give("GET", "/containers/tpl-1/json", 500, {"message": "later"})
    with pytest.raises(LaunchError):
        await backend.status("tpl-1", {})
    engine.give("GET", "/containers/tpl-1/json", 404, {"message": "No such container"})
    assert (await backend.status("tpl-1", {})).state is InstanceState.MISSING


def ended_container(*, code: int = 137, killed: bool = False, memory: int = 1 << 28) -> dict[str, object]:
    state = {"Status": "exited", "ExitCode": code, "OOMKilled": killed, "FinishedAt": "2026-11-27T10:00:00.123456789Z"}
    labels = {"jenkins-provisioner.agent": "tpl-1"}
    return {"Id": "c1", "Config": {"Labels": labels}, "State": state, "HostConfig": {"Memory": memory}}


async def test_the_kernels_word_on_memory_that_comes_after_the_end_is_waited_for(
    engine: FakeEngine, backend: DockerBackend
) -> None:
    engine.give("GET", "/containers/tpl-1/json", 200, ended_container())
    engine.give("GET", "/events", 200, b'{"Action":"oom","id":"c1"}\n')
    status = await backend.status("tpl-1", {})
    assert (status.out_of_memory, status.exit_code) == (True, 137)
    (asked,) = [parse_qs(urlsplit(path).query) for path in engine.asked if "/events?" in path]
    end = datetime(2026, 11, 27, 10, 0, 0, 123456, tzinfo=UTC).timestamp()
    assert float(asked["since"][0]) < end < float(asked["until"][0]) < end + 5  # the engine itself ends the wait
    assert json.loads(asked["filters"][0]) == {"type": ["container"], "event": ["oom"], "container": ["c1"]}


async def test_a_kill_that_the_kernel_says_nothing_of_is_a_kill(engine: FakeEngine, backend: DockerBackend) -> None:
    engine.give("GET", "/containers/tpl-1/json", 200, ended_container())
    for code, answer in ((200, b""), (403, {"message": "no events through this proxy"})):
        engine.give("GET", "/events", code, answer)
        assert not (await backend.status("tpl-1", {})).out_of_memory
    engine.hang("GET", "/events")
    async with asyncio.timeout(20):
        assert not (await backend.status("tpl-1", {})).out_of_memory


@pytest.mark.parametrize("given", [{"killed": True}, {"code": 1}, {"memory": 0}])
async def test_only_a_kill_under_a_limit_needs_the_kernels_word(
    engine: FakeEngine, backend: DockerBackend, given: dict[str, int]
) -> None:
    engine.give("GET", "/containers/tpl-1/json", 200, ended_container(**given))  # type: ignore[arg-type]
    assert (await backend.status("tpl-1", {})).out_of_memory is bool(given.get("killed"))
    assert ("GET", "/events") not in engine.requests


async def test_broken_event_stream_is_an_error(engine: FakeEngine, backend: DockerBackend) -> None:
    engine.give("GET", "/events", 200, {"Actor": {"Attributes": {"jenkins-provisioner.agent": "tpl-1"}}})
    with pytest.raises(LaunchError) as caught:
        async for _ in backend.events():
            pass
    assert caught.value.reason is Reason.PROVIDER_UNREACHABLE
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("manifest for x/y:1 not found: manifest unknown: manifest unknown", Reason.IMAGE_NOT_FOUND),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", Reason.IMAGE_NOT_FOUND),
        ("pull access denied for y, repository does not exist or may require 'docker login'", Reason.IMAGE_DENIED),
        ("Head https://r/v2/y/manifests/1: unauthorized: authentication required", Reason.IMAGE_DENIED),
        ("Head https://r/v2/y/manifests/1: no basic auth credentials", Reason.IMAGE_DENIED),
        ("Get https://r/v2/: net/http: TLS handshake timeout", Reason.REGISTRY_ERROR),
        ("dial tcp: lookup r on 10.0.0.1:53: no such host", Reason.REGISTRY_ERROR),
        ("toomanyrequests: You have reached your pull rate limit", Reason.REGISTRY_ERROR),
        ("received unexpected HTTP status: 503 Service Unavailable", Reason.REGISTRY_ERROR),
    ],
)
def test_why_a_pull_failed(message: str, reason: Reason) -> None:
    error = pull_error(RefusedError(500, message), "y:1")
    assert error.reason is reason
    assert message in error.message
    assert error.retryable is (reason is Reason.REGISTRY_ERROR)


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (404, "No such image: x:1", Reason.IMAGE_NOT_FOUND),
        (400, "Unknown runtime specified kata", Reason.CREATE_REJECTED),
        (404, "network nonet not found", Reason.CREATE_REJECTED),
        (400, 'unable to start container process: exec: "java": executable file not found', Reason.AGENT_EXITED),
        (400, "Minimum memory limit allowed is 6MB", Reason.CREATE_REJECTED),
        (400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", Reason.CREATE_REJECTED),
        (
            400,
            "unable to start container process: container init was OOM-killed (memory limit too low?)",
            Reason.CREATE_REJECTED,
        ),
    ],
)
def test_why_a_container_did_not_start(code: int, message: str, reason: Reason) -> None:
    error = start_error(RefusedError(code, message), "tpl-1")
    assert error.reason is reason
    assert "tpl-1" in error.message
    assert not isinstance(error, NoRoom), "no other container's end would mend it"


@pytest.mark.parametrize(
    ("message", "reason", "lacks"),
    [
        ("no available IPv4 addresses on this network's address pools: tiny (d564)", Reason.NO_ADDRESS, "no address"),
        ("no available IPv6 addresses on this network's address pools: tiny (d564)", Reason.NO_ADDRESS, "no address"),
        (
            "could not find an available, non-overlapping IPv4 address pool among the defaults",
            Reason.NO_ADDRESS,
            "no range of addresses",
        ),
        ("all predefined address pools have been fully subnetted", Reason.NO_ADDRESS, "no range of addresses"),
        (
            "driver failed programming external connectivity on endpoint tpl-1 (1fae): all ports are allocated",
            Reason.CREATE_REJECTED,
            "no port",
        ),
        (
            "failed to create endpoint tpl-1: adding interface vethc to bridge docker0 failed: exchange full",
            Reason.CREATE_REJECTED,
            "takes no more containers",
        ),
        (
            'applying cgroup configuration caused "mkdir /sys/fs/cgroup/memory/docker/adb6: cannot allocate memory"',
            Reason.CREATE_REJECTED,
            "no control group",
        ),
        (
            "OCI runtime create failed: mkdir /sys/fs/cgroup/docker/adb6: no space left on device: unknown",
            Reason.CREATE_REJECTED,
            "no control group",
        ),
        (
            "failed to start shim: fork/exec /usr/bin/containerd-shim-runc-v2: resource temporarily unavailable",
            Reason.CREATE_REJECTED,
            "no room for more processes",
        ),
        ("error creating overlay mount: pipe2: too many open files", Reason.CREATE_REJECTED, "too many open files"),
        ("mkdir /var/lib/docker/overlay2/x: no space left on device", Reason.DISK_FULL, "disk is full"),
        ("mkdir /var/lib/docker/overlay2/x: disk quota exceeded", Reason.DISK_FULL, "disk is full"),
        (
            "devmapper: Thin Pool has 1 free data blocks which is less than minimum required 163840 free data blocks",
            Reason.DISK_FULL,
            "disk is full",
        ),
    ],
)
def test_an_engine_that_is_out_of_room_is_told_from_one_that_cannot_do_it(
    message: str, reason: Reason, lacks: str
) -> None:
    error = start_error(RefusedError(500, message), "tpl-1")
    assert isinstance(error, NoRoom)
    assert error.reason is reason
    assert lacks in error.lacks
    assert "tpl-1" not in error.lacks, "the same words for every launch"
    assert message in error.message


def test_a_pull_that_fills_the_disk_waits_for_room() -> None:
    error = pull_error(RefusedError(500, "failed to register layer: write /x: no space left on device"), "y:1")
    assert isinstance(error, NoRoom)
    assert error.reason is Reason.DISK_FULL
    again = error.again()
    assert isinstance(again, NoRoom)
    assert (again.message, again.lacks, again.reason) == (error.message, error.lacks, error.reason)


@pytest.mark.parametrize(
    ("image", "host", "parts"),
    [
        ("maven", "docker.io", ("maven", "latest")),
        ("team/app:1", "docker.io", ("team/app", "1")),
        ("localhost/app", "localhost", ("localhost/app", "latest")),
        ("r.example.org:5000/a/b:2", "r.example.org:5000", ("r.example.org:5000/a/b", "2")),
        ("r.example.org:5000/a/b", "r.example.org:5000", ("r.example.org:5000/a/b", "latest")),
        ("r.example.org/a@sha256:0f", "r.example.org", ("r.example.org/a", "sha256:0f")),
    ],
)
def test_parts_of_an_image_s_name(image: str, host: str, parts: tuple[str, str]) -> None:
    assert split(image) == parts
    assert registry_host(split(image)[0]) == host
