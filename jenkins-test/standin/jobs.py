"""Jobs, read from their config.xml, and their builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from standin import freestyle, pipeline, runs
from standin.labels import BadExpression, Label, parse
from standin.nodes import Executor, now_ms
from standin.queue import Item

if TYPE_CHECKING:
    import asyncio

    from standin.world import World

_KINDS = {
    "project": "freestyle",
    "flow-definition": "pipeline",
    "com.cloudbees.hudson.plugins.folder.Folder": "folder",
}
DEFAULT_QUIET_S = 5.0


class BadJob(ValueError):  # noqa: N818
    """A config.xml that the stand-in cannot read."""


class Console:
    """A build's log; its size is counted in stored bytes, which is not what an answer's body is long."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, text: str) -> None:
        self.data += text.encode()

    def line(self, text: str) -> None:
        self.data += text.encode() + b"\n"

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")


@dataclass(eq=False, slots=True)
class Build:
    """One build record."""

    job: Job
    number: int
    queue_id: int
    params: Mapping[str, str]
    causes: list[Mapping[str, str]]
    started_ms: int = field(default_factory=now_ms)
    duration_ms: int = 0
    building: bool = True
    result: str | None = None
    built_on: str = ""
    description: str | None = None
    console: Console = field(default_factory=Console)
    task: asyncio.Task[None] | None = None
    stopped_by: str | None = None
    run: runs.Run | None = None

    @property
    def url(self) -> str:
        return f"{self.job.url}{self.number}/"

    @property
    def full_display_name(self) -> str:
        return f"{self.job.display} #{self.number}"

    def finish(self, result: str) -> None:
        self.result = result
        self.duration_ms = max(1, now_ms() - self.started_ms)
        self.console.line(f"Finished: {result}")
        self.building = False


@dataclass(eq=False, slots=True)
class Job:
    """One job; also the queue's task for its builds."""

    world: World
    name: str  # full name, folders with slashes
    config: bytes = b""
    kind: str = "freestyle"  # freestyle | run (a Pipeline job) | folder
    label: Label | None = None
    label_text: str | None = None
    defaults: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    script: str = ""
    concurrent: bool = False
    disabled: bool = False
    description: str | None = None
    quiet_s: float = DEFAULT_QUIET_S
    builds: dict[int, Build] = field(default_factory=dict)
    running: int = 0
    next_number: int = 1

    @property
    def job_name(self) -> str:
        return self.name

    @property
    def display(self) -> str:
        return self.name.replace("/", " » ")

    @property
    def url(self) -> str:
        return "".join(f"job/{part}/" for part in self.name.split("/"))

    @property
    def last(self) -> Build | None:
        return self.builds[max(self.builds)] if self.builds else None

    @property
    def color(self) -> str:
        if self.disabled:
            return "disabled"
        done = next((b for n, b in sorted(self.builds.items(), reverse=True) if b.result), None)
        colors = {"SUCCESS": "blue", "UNSTABLE": "yellow", "FAILURE": "red", "ABORTED": "aborted"}
        color = colors.get(done.result or "", "notbuilt") if done else "notbuilt"
        return color + ("_anime" if self.running else "")

    def read(self, config: bytes) -> None:
        """Raises BadJob."""
        try:
            root = ET.fromstring(config.replace(b"version='1.1'", b"").replace(b'version="1.1"', b'version="1.0"'))
        except ET.ParseError as error:
            raise BadJob(f"config.xml of {self.name} does not parse: {error}") from error
        kind = _KINDS.get(root.tag)
        if kind is None:
            raise BadJob(f"<{root.tag}> is none of {', '.join(_KINDS)}")
        self.config = config
        self.description = root.findtext("description") or None
        self.disabled = root.findtext("disabled") == "true"
        quiet = root.findtext("quietPeriod")
        self.quiet_s = float(quiet) if quiet else DEFAULT_QUIET_S
        self.defaults = {
            d.findtext("name") or "": d.findtext("defaultValue") or ""
            for d in root.iter()
            if d.tag.startswith("hudson.model.") and d.tag.endswith("ParameterDefinition")
        }
        if kind == "pipeline":
            self.kind = "run"
            self.script = root.findtext("definition/script") or ""
            self.concurrent = root.find(".//*[@class='DisableConcurrentBuildsJobProperty']") is None
            return
        self.kind = kind
        self.concurrent = root.findtext("concurrentBuild") == "true"
        self.commands = [c.text or "" for c in root.findall("builders/hudson.tasks.Shell/command")]
        self.label_text = root.findtext("assignedNode") or None
        self.label = None
        if self.label_text:
            try:
                self.label = parse(self.label_text)
            except BadExpression:
                # Jenkins keeps such a job and lets it wait for a label of that very name
                self.label = Label(self.label_text, "atom", (), self.label_text)

    def blocked_by(self) -> str | None:
        if self.concurrent or not self.running:
            return None
        last = self.last
        return f"Build #{last.number if last else '?'} is already in progress"

    def start(self, item: Item, executor: Executor | None) -> Build:
        build = self.new_build(item)
        self.running += 1
        if self.kind == "freestyle":
            assert executor is not None
            freestyle.start(self.world, build, item, executor)
        else:
            build.run = runs.Run(self.world, build)
            build.run.start()
        return build

    def new_build(self, item: Item) -> Build:
        build = Build(self, self.next_number, item.id, item.params, item.causes)
        self.builds[build.number] = build
        self.next_number += 1
        return build

    def build_over(self) -> None:
        self.running -= 1
        self.world.queue.unblock(self)


class Jobs:
    """Every job by full name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_name: dict[str, Job] = {}

    def create(self, name: str, config: bytes) -> Job:
        job = Job(self.world, name)
        job.read(config)
        if job.kind == "run":
            self._check_script(job)
        self.by_name[name] = job
        return job

    def _check_script(self, job: Job) -> None:
        """Nothing is refused here: Jenkins too finds a bad script only when it runs."""
        try:
            pipeline.parse(job.script)
        except pipeline.BadScript as error:
            self.world.log(f"job {job.name}: {error}")

    def get(self, name: str) -> Job | None:
        return self.by_name.get(name)

    def children(self, folder: str) -> list[Job]:
        prefix = f"{folder}/" if folder else ""
        return [j for n, j in self.by_name.items() if n.startswith(prefix) and "/" not in n[len(prefix) :]]

    def delete(self, job: Job) -> None:
        for name in [n for n in self.by_name if n == job.name or n.startswith(f"{job.name}/")]:
            gone = self.by_name.pop(name)
            for item in [i for i in self.world.queue.items.values() if i.task.url == gone.url]:
                self.world.cancel(item)
            for build in gone.builds.values():
                if build.building and build.task:
                    build.task.cancel()

    def build_at(self, url: str) -> Build | None:
        parts = url.strip("/").split("/")
        if len(parts) < 3 or not parts[-1].isdigit():
            return None
        job = self.get("/".join(parts[1:-1:2]))
        return job.builds.get(int(parts[-1])) if job else None
