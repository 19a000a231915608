"""Images: which are there, and pulling those that are not, each only once at a time."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field

from provisioner.backends.contract import Order, Progress
from provisioner.backends.docker.engine import Engine, RefusedError, Stream, name
from provisioner.backends.docker.faults import pull_error, read_error
from provisioner.model.errors import LaunchError, Reason

#: For so long an image that was seen is taken as there; a create that finds it gone says so.
_TRUST_S = 30.0
#: At most one line of progress in this time.
_TELL_S = 3.0
#: How soon a start that waits for a pull sees that its agent was stopped.
_LOOK_S = 0.5
_KEPT_IMAGES = 1000
_DOCKER_HUB = "docker.io"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image of the engine."""

    id: str
    user: str  # as the image says: a name, a number, or empty for root
    path: str = ""  # its PATH; empty: the engine's own


@dataclass(slots=True)
class _Pull:
    """A pull under way; any number of starts wait for it."""

    image: str
    layers: dict[str, tuple[bool, int, int]] = field(default_factory=dict)  # finished, bytes so far, bytes in all
    waiting: int = 0
    given_up: bool = False
    stream: Stream | None = None

    def text(self) -> str:
        """How far it is, in one line."""
        done = sum(1 for finished, _, _ in self.layers.values() if finished)
        total = sum(size for _, _, size in self.layers.values())
        so_far = sum(size if finished else current for finished, current, size in self.layers.values())
        return f"pulling {self.image}: {done}/{len(self.layers)} layers, {so_far / 1e6:.0f}/{total / 1e6:.0f} MB"

    def note(self, frame: Mapping[str, object]) -> None:
        """Take in one line of the engine's."""
        layer, status, detail = str(frame.get("id", "")), str(frame.get("status", "")), frame.get("progressDetail")
        if not layer or status.startswith(("Pulling from", "Digest")):
            return
        _, current, size = self.layers.get(layer, (False, 0, 0))
        if status == "Downloading" and isinstance(detail, Mapping):
            current, size = int(detail.get("current") or current), int(detail.get("total") or size)
        elif status in ("Download complete", "Extracting", "Verifying Checksum"):
            current = size
        self.layers[layer] = (status in ("Pull complete", "Already exists"), current, size)

    def give_up(self) -> None:
        """Nobody waits for it any more: the engine stops it as the stream closes."""
        self.given_up = True
        if self.stream is not None:
            self.stream.close()


class Images:
    """The images of one engine.

    Args:
        engine: where they are.
        pulls: threads for pulls alone.
        reads: threads for short questions.
        registries: user and password by registry host.
        check: raises if the agent was stopped.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        pulls: ThreadPoolExecutor,
        reads: ThreadPoolExecutor,
        registries: Mapping[str, tuple[str, str]],
        check: Callable[[str], None],
    ) -> None:
        self._check = check
        self._engine = engine
        self._pulls = pulls
        self._reads = reads
        self._registries = registries
        self._seen: dict[str, tuple[float, Image]] = {}
        self._under_way: dict[str, tuple[_Pull, asyncio.Task[None]]] = {}

    def known(self, image: str) -> Image | None:
        """What was last seen of an image that was seen lately."""
        seen = self._seen.get(image)
        return seen[1] if seen and time.monotonic() - seen[0] < _TRUST_S else None

    def forget(self, image: str) -> None:
        """The engine says that it is gone."""
        self._seen.pop(image, None)

    async def present(self, image: str) -> Image | None:
        """The image, if the engine has it."""
        known = self.known(image)
        if known is not None:
            return known
        return await asyncio.get_running_loop().run_in_executor(self._reads, self._look, image)

    def _look(self, image: str) -> Image | None:
        try:
            found = self._engine.call("GET", f"/images/{name(image)}/json").json()
        except RefusedError as refused:
            if refused.code in (400, 404):  # 400: no image can have such a name; the pull says so in full
                return None
            raise read_error(refused, f"image {image}") from refused
        if not isinstance(found, Mapping):
            return None
        config = found.get("Config")
        user, path = "", ""
        if isinstance(config, Mapping):
            user = str(config.get("User") or "")
            path = next((str(v)[5:] for v in config.get("Env") or () if str(v).startswith("PATH=")), "")
        seen = Image(id=str(found["Id"]), user=user, path=path)
        while len(self._seen) >= _KEPT_IMAGES:
            del self._seen[next(iter(self._seen))]
        self._seen[image] = (time.monotonic(), seen)
        return seen

    async def pull_problem(self, image: str) -> LaunchError | None:
        """Why an image could not be pulled now, as its registry says; None: it could. Nothing is pulled.

        Raises:
            LaunchError: provider_unreachable.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reads, self._ask_registry, image)

    def _ask_registry(self, image: str) -> LaunchError | None:
        repository, _ = split(image)
        try:
            self._engine.call("GET", f"/distribution/{name(image)}/json", headers=self._login(repository))
        except RefusedError as refused:
            return pull_error(refused, image)
        return None

    async def ensure(self, order: Order) -> AsyncGenerator[Progress, None]:
        """Have the order's image on the engine when the iterator ends.

        Raises:
            LaunchError: image_not_found, image_denied, registry_error, pull_timeout, disk_full or
                provider_unreachable.
        """
        image = order.image
        if not image:
            raise LaunchError(f"{order.agent} has no image", reason=Reason.TEMPLATE_INVALID)
        if order.pull != "always" and await self.present(image) is not None:
            return
        if order.pull == "never":
            raise LaunchError(
                f"the image {image} is not on the engine, and `pull: never` keeps us from pulling it",
                reason=Reason.IMAGE_NOT_FOUND,
            )
        began = time.monotonic()
        async with aclosing(self._join(order.agent, image, order.pull_timeout_s)) as lines:
            async for line in lines:
                yield line
        self.forget(image)
        if await self.present(image) is None:
            raise LaunchError(
                f"the image {image} was pulled and is not there", reason=Reason.REGISTRY_ERROR, retryable=True
            )
        yield Progress(text=f"pulled {image} in {time.monotonic() - began:.1f} s")

    async def _join(self, agent: str, image: str, timeout_s: float) -> AsyncGenerator[Progress, None]:
        """Wait for the pull of this image, which one of us began."""
        joined = self._under_way.get(image)
        if joined is not None:
            pull, task = joined
        else:
            pull = _Pull(image)
            task = asyncio.create_task(self._run(pull, timeout_s), name=f"pull {image}")
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # all may have left by then
            self._under_way[image] = pull, task
        began = told_at = time.monotonic()
        told = ""
        pull.waiting += 1
        try:
            yield Progress(
                text=f"waiting for the pull of {image} that another agent began" if joined else f"pulling {image}"
            )
            while not task.done():
                self._check(agent)
                left_s = began + timeout_s - time.monotonic()
                if left_s <= 0:
                    raise LaunchError(
                        f"the image {image} was not pulled within {timeout_s:.0f} s ({pull.text()})",
                        reason=Reason.PULL_TIMEOUT,
                        retryable=True,
                    )
                await asyncio.wait({task}, timeout=min(_LOOK_S, left_s))
                due = not task.done() and pull.layers and time.monotonic() - told_at >= _TELL_S
                if due and (text := pull.text()) != told:
                    told, told_at = text, time.monotonic()
                    yield Progress(text=text)
            failed = task.exception()
            if isinstance(failed, LaunchError):
                raise failed.again() from failed  # each waiter raises one of its own
            if failed is not None:
                raise failed
        finally:
            pull.waiting -= 1
            if pull.waiting == 0 and not task.done():
                self._under_way.pop(image, None)
                pull.give_up()

    async def _run(self, pull: _Pull, timeout_s: float) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pulls, self._pull, pull, timeout_s)
        finally:
            under_way = self._under_way.get(pull.image)
            if under_way is not None and under_way[0] is pull:
                del self._under_way[pull.image]

    def _pull(self, pull: _Pull, timeout_s: float) -> None:
        if pull.given_up:
            return
        repository, tag = split(pull.image)
        if not repository:
            raise LaunchError(f"`{pull.image}` is no image's name", reason=Reason.IMAGE_NOT_FOUND)
        try:
            stream = self._engine.stream(
                "POST",
                "/images/create",
                query={"fromImage": repository, "tag": tag},
                headers=self._login(repository),
                silence_s=timeout_s,
            )
            pull.stream = stream
            try:
                for frame in stream:
                    if pull.given_up:
                        return
                    if "error" in frame:
                        raise RefusedError(500, str(frame["error"]))
                    pull.note(frame)
            finally:
                stream.close()
        except RefusedError as refused:
            raise pull_error(refused, pull.image) from refused

    def _login(self, repository: str) -> dict[str, str]:
        host = registry_host(repository)
        login = self._registries.get(host)
        if login is None and host == _DOCKER_HUB:
            login = self._registries.get("index.docker.io") or self._registries.get("https://index.docker.io/v1/")
        if login is None:
            return {}
        token = {"username": login[0], "password": login[1], "serveraddress": host}
        return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(token).encode()).decode()}


def split(image: str) -> tuple[str, str]:
    """Repository, and tag or digest; without a tag the engine would pull every one there is."""
    repository, at, digest = image.partition("@")
    if at:
        return repository, digest
    repository, colon, tag = image.rpartition(":")
    if colon and "/" not in tag:
        return repository, tag
    return image, "latest"


def registry_host(repository: str) -> str:
    """The registry that an image name means."""
    first, slash, _ = repository.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else _DOCKER_HUB
