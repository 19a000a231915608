"""The parts of a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from provisioner.config.kinds import SshServer
from provisioner.config.part import Part
from provisioner.config.values import (
    AbsolutePath,
    Count,
    Duration,
    ImageName,
    Name,
    Port,
    PositiveCount,
    Size,
    Text,
    UserName,
    Variable,
    VariableValue,
)

#: Engines refuse less; it is also what `memory: 4` with a forgotten unit runs into.
LEAST_MEMORY_BYTES = 6 << 20


class Resources(Part):
    """What one instance may use."""

    cpus: Annotated[float, Field(strict=True, gt=0, le=4096)] | None = Field(
        None, description="processors, also a fraction; default: no limit"
    )
    memory_bytes: Annotated[Size, Field(ge=LEAST_MEMORY_BYTES)] | None = Field(
        None, alias="memory", description="memory, at least 6m, such as 512m or 4g; default: no limit"
    )
    pids: PositiveCount | None = Field(None, description="processes and threads; default: the engine's own limit")
    shm_bytes: Annotated[Size, Field(ge=1)] | None = Field(
        None, alias="shm", description="size of /dev/shm, such as 256m; default: the engine's own"
    )
    disk_bytes: Annotated[Size, Field(ge=1)] | None = Field(
        None, alias="disk", description="size of the instance's own disk, such as 20g; default: no limit"
    )
    devices: tuple[AbsolutePath, ...] = Field((), description="devices of the host that the instance gets")
    gpus: Count = Field(0, description="graphics processors that the instance gets")


class Ssh(Part):
    """What holds for transport ssh alone."""

    server: SshServer = Field(SshServer.INJECTED, description="the SSH server that the instance runs")
    user: UserName | None = Field(
        None,
        description="user as whom the controller logs in; default: the name in `run_as`, else root for "
        "`server: image`; an injected server takes any and is the user of `run_as`",
    )


class Timeouts(Part):
    """How long each step may take."""

    pull_s: Duration = Field(1800.0, alias="pull", gt=0, description="longest pull of the image, more than 0")
    connect_s: Duration = Field(
        120.0,
        alias="connect",
        gt=0,
        description="longest time from the instance's start to its connection, more than 0",
    )
    build_s: Duration = Field(0.0, alias="build", description="longest run of the build on the agent; 0: no limit")
    lifetime_s: Duration = Field(0.0, alias="lifetime", description="longest life of an agent; 0: no limit")


class SecretMount(Part):
    """A file of the sidecar that the instance gets, outside its image, arguments and environment."""

    file: AbsolutePath = Field(description="file of the sidecar that holds the secret")
    at: AbsolutePath | None = Field(None, description="where the instance finds it")
    env: Variable | None = Field(None, description="environment variable that is set to the path of the secret")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.at is None and self.env is None:
            raise ValueError("the instance could not find this secret; add `at: PATH` or `env: VARIABLE`")
        return self


class Volume(Part):
    """What outlives the agent: a named cache, or a workspace."""

    cache: Name | None = Field(None, description="name of a cache that agents share")
    workspace: Literal["per-job"] | None = Field(None, description="a workspace that the next agent of the job gets")
    at: AbsolutePath | None = Field(None, description="where the instance finds the cache")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.cache is None) == (self.workspace is None):
            raise ValueError("must be one thing; write {cache: NAME, at: PATH} or {workspace: per-job}")
        if self.cache is not None and self.at is None:
            raise ValueError("a cache needs a place; add `at: PATH`")
        return self


class Ready(Part):
    """When a side container counts as ready."""

    tcp: Port = Field(description="port at which it must take a connection")
    within_s: Duration = Field(30.0, alias="within", gt=0, description="longest wait for that, more than 0")


class Sidecar(Part):
    """A container beside the agent's, with its network, for as long as the agent lives."""

    name: Name = Field(description="name of the side container, unique in the template")
    image: ImageName = Field(description="image of the side container")
    command: tuple[Text, ...] = Field((), description="command and arguments; default: the image's own")
    env: Mapping[Variable, VariableValue] = Field({}, description="environment variables, never secrets")
    secrets: tuple[SecretMount, ...] = Field((), description="files of the sidecar that the side container gets")
    ready: Ready | None = Field(None, description="what to wait for before the agent starts; default: nothing")


class Override(Part):
    """What a build may ask for; nothing without an allow-list or a maximum."""

    parameter: Text | None = Field(None, description="build parameter that holds the value; default: labels only")
    allow: tuple[Text, ...] = Field((), description="values that are allowed, with * for any text")


class ImageOverride(Override):
    """The image that a build may ask for."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.allow:
            raise ValueError('needs an allow-list; add one such as `allow: ["maven:*"]`')
        return self


class SizeOverride(Override):
    """A size that a build may ask for."""

    max_bytes: Annotated[Size, Field(ge=1)] | None = Field(
        None, alias="max", description="largest size that is allowed, such as 8g"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.allow and self.max_bytes is None:
            raise ValueError("needs an allow-list or a maximum; add `allow: [...]` or `max: 8g`")
        return self


class NumberOverride(Override):
    """A number that a build may ask for."""

    max: Annotated[float, Field(strict=True, gt=0)] | None = Field(None, description="largest number that is allowed")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.allow and self.max is None:
            raise ValueError("needs an allow-list or a maximum; add `allow: [...]` or `max: 4`")
        return self


class Overrides(Part):
    """Everything that a build may ask for."""

    image: ImageOverride | None = Field(None, description="image that a build may ask for")
    cpus: NumberOverride | None = Field(None, description="processors that a build may ask for")
    memory: SizeOverride | None = Field(None, description="memory that a build may ask for")
    pids: NumberOverride | None = Field(None, description="processes and threads that a build may ask for")
    shm: SizeOverride | None = Field(None, description="size of /dev/shm that a build may ask for")
    disk: SizeOverride | None = Field(None, description="disk that a build may ask for")


class ImageBuild(Part):
    """How the image is made, instead of being pulled."""

    context: Text | None = Field(None, description="folder or git URL that holds the Dockerfile")
    from_: Literal["job-scm"] | None = Field(
        None, alias="from", description="job-scm: the Dockerfile is in the job's own source"
    )
    dockerfile: Text = Field("Dockerfile", description="path of the Dockerfile in the context")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.context is None) == (self.from_ is None):
            raise ValueError("must have one source; write `context: URL` or `from: job-scm`")
        return self
