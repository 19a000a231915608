"""The whole configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from provisioner.config.controllers import Controller
from provisioner.config.gateway import Gateway
from provisioner.config.loans import Loans
from provisioner.config.part import Part
from provisioner.config.providers import Provider
from provisioner.config.secret import SecretRef
from provisioner.config.templates import Template
from provisioner.config.values import (
    Count,
    Duration,
    Label,
    Listen,
    Name,
    OwnerId,
    PositiveCount,
    RegistryHost,
    Size,
    Text,
    split_listen,
)


class Http(Part):
    """Where the sidecar's API and dashboard are."""

    listen: Listen = Field("127.0.0.1:8085", description="host:port to listen at; port 0 takes a free one")
    token_file: Text | None = Field(
        None, description="file of the API's token, made at the first start; default: `token` beside the state file"
    )

    @property
    def host(self) -> str:
        """The host to listen at, an IPv6 address without brackets."""
        return split_listen(self.listen)[0]

    @property
    def port(self) -> int:
        """The port to listen at; 0 takes a free one."""
        return split_listen(self.listen)[1]


class Limits(Part):
    """Bounds over all providers."""

    agents: PositiveCount = Field(200, description="most agents at any instant")
    launching: PositiveCount = Field(20, description="most agents that are being started at any instant")
    labels: Mapping[Label, PositiveCount] = Field(
        {}, description="by label, most agents whose node carries it at any instant, whatever their template"
    )


class Registry(Part):
    """An account at an image registry."""

    host: RegistryHost = Field(description="host or host:port, as it stands before the first / of an image's name")
    username: Text = Field(description="account at the registry")
    password: SecretRef = Field(description="its password: {env: VARIABLE} or {file: PATH}")


class CleanupLabels(Part):
    """The labels that the dirty/clean scheduler reads and writes."""

    cleanable: Label = Field("cleanable", description="label of the nodes that it looks after")
    dirty: Label = Field("dirty", description="label of a node that must be cleaned")
    clean: Label = Field("clean", description="label of a node that builds may use")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({self.cleanable, self.dirty, self.clean}) < 3:
            raise ValueError("must be three different labels; change the one that stands twice")
        return self


class CleanupAfter(Part):
    """What makes a clean node dirty again."""

    builds: Count = Field(1, description="after this many builds; 0: builds alone do not")
    age_s: Annotated[Duration, Field(gt=0)] | None = Field(
        None, alias="age", description="this long after its cleaning; default: never"
    )
    disk_below: Size | None = Field(
        None, description="when the node monitor finds less free space below the node's root folder; default: never"
    )


class Cleanup(Part):
    """The scheduler of long-lived nodes."""

    controller: Name = Field(description="controller whose nodes are looked after")
    interval_s: Annotated[Duration, Field(ge=1)] = Field(
        60.0, alias="interval", description="time between two passes, at least 1s"
    )
    job: Text = Field(description="job that cleans one node, named by its parameter NODE")
    labels: CleanupLabels = Field(default_factory=CleanupLabels, description="labels that it reads and writes")
    dirty_timeout_s: Annotated[Duration, Field(gt=0)] = Field(
        3600.0,
        alias="dirty_timeout",
        description="longest time that one cleaning may wait or run; then it is ended and tried again, more than 0",
    )
    at_once: PositiveCount = Field(2, description="most nodes that are cleaned at the same time")
    skip: tuple[Text, ...] = Field((), description="nodes that are left alone although they have the label")
    retries: Count = Field(2, description="how often a failed cleaning is tried again before the node is quarantined")
    retry_after_s: Annotated[Duration, Field(ge=0)] = Field(
        60.0, alias="retry_after", description="pause before the first new try; doubled for each one more"
    )
    after: CleanupAfter = Field(default_factory=CleanupAfter, description="what makes a clean node dirty again")


class Settings(Part):
    """Everything the file says."""

    id: OwnerId = Field(
        description="owner id; unique among provisioners that share a controller or an engine: a-z, 0-9 and -"
    )
    controllers: tuple[Controller, ...] = Field(min_length=1, description="Jenkins controllers that are served")
    state: Text = Field(
        "/var/lib/provisioner/state.db",
        description="SQLite file of the state; a relative path starts at the working folder",
    )
    http: Http = Field(default_factory=Http, description="API and dashboard")
    limits: Limits = Field(default_factory=Limits, description="bounds over all providers")
    registries: tuple[Registry, ...] = Field((), description="accounts at image registries")
    providers: tuple[Provider, ...] = Field((), description="places where instances live")
    templates: tuple[Template, ...] = Field((), description="what to start for which labels")
    gateway: Gateway = Field(default_factory=Gateway, description="SSH server of the transport `ssh-gateway`")
    cleanup: Cleanup | None = Field(None, description="scheduler of long-lived nodes; default: none")
    loans: Loans = Field(default_factory=Loans, description="static nodes that are lent to another controller")

    @property
    def state_file(self) -> Path:
        """The SQLite file."""
        return Path(self.state)

    @property
    def token_file(self) -> Path:
        """The file of the API's token."""
        return Path(self.http.token_file) if self.http.token_file else self.state_file.parent / "token"

    @property
    def gateway_folder(self) -> Path:
        """The folder of the gateway's process."""
        return self.state_file.parent / "gateway"

    def work_dir(self, provider: Provider) -> Path:
        """The folder for the work folders of a process provider's agents."""
        return Path(provider.work_dir) if provider.work_dir else self.state_file.parent / "work" / provider.name

    def controller(self, name: str) -> Controller:
        """The controller of that name; KeyError if there is none."""
        return {controller.name: controller for controller in self.controllers}[name]

    def provider(self, name: str) -> Provider:
        """The provider of that name; KeyError if there is none."""
        return {provider.name: provider for provider in self.providers}[name]

    def template(self, name: str) -> Template:
        """The template of that name; KeyError if there is none."""
        return {template.name: template for template in self.templates}[name]
