"""From a template and an agent's name to what is ordered: a node at the controller, an instance at the provider."""

from __future__ import annotations

from collections.abc import Sequence

from provisioner.backends.contract import Order, SecretFile
from provisioner.config import Template
from provisioner.controller.port import Launcher, NodeOrder
from provisioner.model.agent import Agent
from provisioner.model.queue import ItemKind, QueueItem
from provisioner.transports import Setup, Transport, transport
from provisioner.transports.java import JAR_CACHE


def node_order(
    agent: Agent,
    template: Template,
    item: QueueItem | None,
    root: str,
    *,
    lines: Sequence[str] = (),
    started: bool = False,
) -> NodeOrder:
    """The node of an agent."""
    if item is None and started and agent.request is not None:
        # its item left the queue long ago; what it was tells a new bridge whose end is the end of this node
        item = QueueItem(key=agent.request, kind=agent.kind or ItemKind.OTHER, job="", label=None)
    return NodeOrder(
        name=agent.name,
        owner=agent.owner,
        labels=agent.labels,
        remote_fs=root,
        request=item,
        launcher=Launcher.SSH if transport(template.transport.value).dialled else Launcher(template.transport.value),
        lines=tuple(lines),
        started=started,
        provider=agent.provider,
    )


def instance_order(
    agent: Agent,
    template: Template,
    *,
    backend: str,
    agent_url: str,
    secret: str,
    agent_jar: bytes,
    secrets: Sequence[SecretFile] = (),
) -> Order:
    """The instance of an agent; its own secret, and those of the template, go in as files."""
    way = transport(template.transport.value)
    setup = Setup(name=agent.name, agent_url=agent_url, secret=secret, template=agent.spec)
    return Order(
        agent=agent.name,
        owner=agent.owner,
        image=template.image_for(backend),
        command=way.command(setup),
        listens=way.listens,
        channel=way.channel,
        work_as=way.work_as(agent.spec),
        remote_fs=template.remote_fs,
        files=(*transport_files(way, setup), *secrets),
        agent_jar=agent_jar,
        jars_at=f"{template.remote_fs}/{JAR_CACHE}",
        jars_of=agent_url,
        java=template.java.value,
        run_as=template.run_as,
        env=dict(template.env),
        pull=template.pull,
        pull_timeout_s=template.timeouts.pull_s,
        workspace_of=workspace_of(agent) if any(volume.workspace for volume in template.volumes) else "",
        template=agent.spec,
    )


def transport_files(way: Transport, setup: Setup) -> tuple[SecretFile, ...]:
    """What a transport puts into the secret folder of an instance."""
    return tuple(
        SecretFile(name=f.name, content=f.content, public=f.public, of_server=f.of_server) for f in way.files(setup)
    )


def workspace_of(agent: Agent) -> str:
    """Whose workspace an agent works in: its job's, at its controller; nobody's without a job."""
    if agent.request is None:
        return ""
    job = agent.request.task.strip("/")
    if agent.kind is ItemKind.PIPELINE:
        job = job.rpartition("/")[0]  # the task of a `node` step is the run
    return f"{agent.controller}/{job}"
