"""A provider: where instances live, and how many."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from provisioner.config.kinds import BackendKind
from provisioner.config.part import Part
from provisioner.config.values import Duration, Endpoint, HostName, HttpUrl, Label, Name, PositiveCount, Text

#: Where a provider is, if it does not say so. Kubernetes: the cluster that the sidecar itself runs in.
DEFAULT_ENDPOINT: Mapping[BackendKind, str] = {
    BackendKind.DOCKER: "unix:///var/run/docker.sock",
    BackendKind.SWARM: "unix:///var/run/docker.sock",
    BackendKind.LIBVIRT: "qemu:///system",
}


class Tls(Part):
    """The files of a `tcp://` endpoint's encryption."""

    ca: Text = Field(description="file of the authority that signed the engine's certificate")
    cert: Text = Field(description="file of our own certificate")
    key: Text = Field(description="file of our own private key")


class Ssh(Part):
    """The files of an `ssh://` endpoint; without them those of the account that the sidecar runs as."""

    key: Text | None = Field(
        None, description="file of our own private key; default: the account's agent and the keys in its ~/.ssh"
    )
    known_hosts: Text | None = Field(
        None, description="file with the host's key, as OpenSSH keeps them; default: ~/.ssh/known_hosts"
    )


class Provider(Part):
    """A place for instances, with its capacity."""

    name: Name = Field(description="name of the provider in tables, metrics and `templates[].providers`")
    backend: BackendKind = Field(description="kind of the provider")
    endpoint: Endpoint | None = Field(
        None,
        description="address of the provider: unix:///PATH, tcp://HOST:PORT with `tls`, ssh://USER@HOST[:PORT], "
        "qemu:///system; default: the backend's usual one",
    )
    max_agents: PositiveCount = Field(description="most agents at this provider at any instant")
    network: Text | None = Field(
        None, description="network of the engine that instances join, or host; default: the engine's own"
    )
    runtime: Text | None = Field(
        None, description="runtime of the engine, such as runc, runsc, kata; default: the engine's own"
    )
    agent_url: HttpUrl | None = Field(
        None, description="URL of the controller as agents at this provider reach it; default: the controller's"
    )
    ssh_host: HostName | None = Field(
        None,
        description="transport ssh: host name or address of the provider's machine as the controller reaches it, where "
        "it does not reach instances themselves; backend docker then maps a port of it to each instance; default: "
        "the instance's own address",
    )
    tls: Tls | None = Field(None, description="files of a tcp:// endpoint's encryption")
    ssh: Ssh | None = Field(None, description="files of an ssh:// endpoint; default: those of the account")
    java: Text = Field("java", description="backend process: the Java executable that runs the agent")
    work_dir: Text | None = Field(
        None, description="backend process: folder for the agents' work folders; default: beside the state file"
    )
    node_labels: tuple[Label, ...] = Field(
        (), description="backend static: labels that its nodes have, besides those of `cleanup`; default: any"
    )
    timeout_s: Duration = Field(
        60.0, alias="timeout", ge=1, description="longest wait for one answer of the provider, pulls apart; at least 1s"
    )

    @property
    def address(self) -> str | None:
        """The endpoint, or the backend's usual one; None where the backend has none."""
        return self.endpoint or DEFAULT_ENDPOINT.get(self.backend)
