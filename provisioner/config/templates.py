"""A template: what to start for which labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic.config import JsonDict

from provisioner.config.kinds import BackendKind, JavaSource, PullPolicy, TransportKind
from provisioner.config.part import Part
from provisioner.config.standby_hours import StandbyHours, standby_at
from provisioner.config.template_parts import (
    ImageBuild,
    Overrides,
    Resources,
    SecretMount,
    Sidecar,
    Ssh,
    Timeouts,
    Volume,
)
from provisioner.config.values import (
    AbsolutePath,
    Address,
    Count,
    Duration,
    HoldOnFailure,
    HostName,
    HostTarget,
    ImageName,
    JobPattern,
    Label,
    Name,
    PositiveCount,
    RunAs,
    TemplateName,
    Variable,
    VariableValue,
)
from provisioner.model.errors import ConfigError

#: They stand in pydantic's error paths and name no key of the file.
UNION_TAGS = frozenset({"<one image>", "<image by backend>"})

Image = Annotated[
    Annotated[ImageName, Tag("<one image>")] | Annotated[Mapping[BackendKind, ImageName], Tag("<image by backend>")],
    Discriminator(lambda value: "<image by backend>" if isinstance(value, Mapping) else "<one image>"),
]


def _needed_unless_inherited(schema: JsonDict) -> None:
    schema["required"] = ["name"]
    schema["anyOf"] = [{"required": ["labels", "providers"]}, {"required": ["extends"]}]


class Template(Part):
    """What to start for which labels."""

    model_config = ConfigDict(json_schema_extra=_needed_unless_inherited)

    name: TemplateName = Field(description="name of the template; the names of its nodes begin with it")
    extends: TemplateName | None = Field(
        None, description="template whose keys hold where this one has none; mappings are joined"
    )
    controllers: tuple[Name, ...] = Field(
        (), description="controllers that it serves; default: all", json_schema_extra={"minItems": 1}
    )
    labels: tuple[Label, ...] = Field(
        min_length=1,
        description="labels that its agents carry, also with a place holder such as image={image}; "
        "needed, here or in what it extends",
    )
    jobs: tuple[JobPattern, ...] = Field(
        ("**",), min_length=1, description="jobs that may use it, by full name, with * and **; default: all"
    )
    priority: Annotated[int, Field(strict=True)] = Field(
        0, description="the highest of the matching templates is taken; then file order"
    )
    providers: tuple[Name, ...] = Field(
        min_length=1,
        description="where its agents may run, in order of preference, the next takes the overflow; "
        "needed, here or in what it extends",
    )
    max_agents: PositiveCount | None = Field(None, description="most agents of it at any instant; default: no limit")
    image: Image | None = Field(None, description="image, or a mapping from backend to image")
    build: ImageBuild | None = Field(None, description="how the image is made; instead of `image`")
    pull: PullPolicy = Field(PullPolicy.MISSING, description="when the image is pulled")
    transport: TransportKind = Field(TransportKind.WEBSOCKET, description="how the agent connects")
    ssh: Ssh = Field(default_factory=Ssh, description="transport ssh: the instance's SSH server")
    java: JavaSource = Field(JavaSource.IMAGE, description="where the agent's Java comes from")
    remote_fs: AbsolutePath = Field("/home/jenkins/agent", description="work folder of the agent, an absolute path")
    run_as: RunAs | None = Field(None, description='user or user:group, such as "1000:1000"; default: the image\'s own')
    read_only: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="backend docker: the image's files cannot be changed; builds write to `remote_fs` and to caches, "
        "and in memory to /tmp and /run",
    )
    tmpfs: tuple[AbsolutePath, ...] = Field((), description="with `read_only`: further folders in memory")
    env: Mapping[Variable, VariableValue] = Field({}, description="environment variables, never secrets")
    secrets: tuple[SecretMount, ...] = Field((), description="files of the sidecar that the instance gets")
    resources: Resources = Field(default_factory=Resources, description="what one instance may use")
    extra_hosts: Mapping[HostName, HostTarget] = Field(
        {}, description="further host names, each with its IP address or host-gateway"
    )
    dns: tuple[Address, ...] = Field((), description="IP addresses of name servers; default: the engine's own")
    volumes: tuple[Volume, ...] = Field((), description="caches and workspaces that outlive the agent")
    sidecars: tuple[Sidecar, ...] = Field((), description="containers beside the agent's")
    overrides: Overrides = Field(default_factory=Overrides, description="what a build may ask for; default: nothing")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="how long each step may take")
    retries: Annotated[Count, Field(le=100)] = Field(1, description="further tries after a failed launch")
    standby: Count = Field(0, description="agents kept connected and waiting, given to no build yet")
    standby_hours: tuple[StandbyHours, ...] = Field(
        (), description="how many wait at which times of day instead; the first entry that covers the moment holds"
    )
    head_start_s: Duration = Field(
        0.0,
        alias="head_start",
        description="how long a build waits for another node or cloud that could serve it, before an agent is started",
    )
    hold_on_failure: HoldOnFailure = Field(
        0,
        description="how many agents whose build failed are held for debugging at a time, each for 2h; or, with a "
        "unit such as 30m, for how long each of them is; 0: none",
    )

    def serves(self, controller: str) -> bool:
        """Whether a controller's builds may use it."""
        return not self.controllers or controller in self.controllers

    @property
    def ever_stands_by(self) -> bool:
        """Whether there are times at which agents of it wait for builds."""
        return self.standby > 0 or any(hours.agents for hours in self.standby_hours)

    def standby_at(self, now: datetime) -> int:
        """How many agents of it are to wait for builds at a moment."""
        return standby_at(self.standby, self.standby_hours, now)

    def image_for(self, backend: str) -> str | None:
        """The image at providers of one kind; None if it has none there."""
        return self.image if self.image is None or isinstance(self.image, str) else self.image.get(BackendKind(backend))

    def spec(self) -> dict[str, object]:
        """All keys with their values, as JSON takes them: durations in seconds, sizes in bytes."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def version(self) -> str:
        """Twelve characters that change whenever any value does."""
        canonical = json.dumps(self.spec(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @classmethod
    def from_spec(cls, spec: Mapping[str, object]) -> Self:
        """The template that `spec` gave.

        Raises:
            ConfigError: it is no template, or one of a release with other keys.
        """
        try:
            return cls.model_validate(dict(spec))
        except ValidationError as error:
            keys = sorted({".".join(map(str, problem["loc"])) for problem in error.errors(include_input=False)})
            raise ConfigError(f"a stored template cannot be read by this release; at: {', '.join(keys)}") from None
