"""What must hold between the parts of the configuration.

Each rule sees the parts that are well formed, with their place in the file, so that one broken
template does not hide what is wrong with another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from provisioner.config.controllers import Controller
from provisioner.config.gateway import Gateway
from provisioner.config.kinds import BackendKind, BridgeChoice, TransportKind
from provisioner.config.loans import LoanMachine, Loans
from provisioner.config.problems import KeyPath, Problem
from provisioner.config.providers import Provider
from provisioner.config.settings import Cleanup, Registry
from provisioner.config.templates import Template
from provisioner.config.values import place_holders


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The well-formed parts by their place in their list, and the names of all, well formed or not."""

    controllers: Mapping[int, Controller]
    registries: Mapping[int, Registry]
    providers: Mapping[int, Provider]
    templates: Mapping[int, Template]
    cleanup: Cleanup | None
    loans: Loans | None  # without its machines
    machines: Mapping[int, LoanMachine]
    has_cleanup: bool
    gateway: Gateway | None
    names: Mapping[str, Mapping[int, str]]  # of controllers, providers, templates


_SCHEMES: Mapping[BackendKind, tuple[str, ...]] = {
    BackendKind.DOCKER: ("unix", "tcp", "ssh"),
    BackendKind.SWARM: ("unix", "tcp", "ssh"),
    BackendKind.KUBERNETES: ("https", "http"),
}
_WITHOUT_IMAGE = {BackendKind.PROCESS, BackendKind.STATIC}
_ENGINES = {BackendKind.DOCKER, BackendKind.SWARM}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def names_are_unique(parts: Parts) -> Iterator[Problem]:
    """What is referred to by its name, and what must not be served twice, is there once."""
    for kind, names in parts.names.items():
        yield from _twice(((kind, index, "name"), name) for index, name in names.items())
    yield from _twice((("controllers", i, "url"), controller.url) for i, controller in parts.controllers.items())
    yield from _twice((("registries", i, "host"), registry.host) for i, registry in parts.registries.items())


def something_to_do(parts: Parts) -> Iterator[Problem]:
    """There is a template, or at least a cleanup or loans."""
    others = parts.has_cleanup or parts.loans is not None
    if not parts.names["templates"] and not parts.templates and not others:
        yield Problem(path=("templates",), text="is missing or empty; write what to start for which labels")


def names_are_known(parts: Parts) -> Iterator[Problem]:
    """What a name refers to is there."""
    for index, template in parts.templates.items():
        at: KeyPath = ("templates", index)
        if "controllers" in template.model_fields_set and not template.controllers:
            # no bound of the field itself: the records of agents hold it empty where it means all
            text = "must not be empty; expected: controllers that it serves; default: all"
            yield Problem(path=(*at, "controllers"), text=text)
        yield from _unknown(parts, "providers", (*at, "providers"), template.providers)
        yield from _unknown(parts, "controllers", (*at, "controllers"), template.controllers)
        if template.extends is not None:
            yield from _name_problem(parts, "templates", (*at, "extends"), template.extends)
            if template.extends == template.name:
                yield Problem(path=(*at, "extends"), text="names the template itself; name another one")
    if parts.cleanup is not None:
        yield from _name_problem(parts, "controllers", ("cleanup", "controller"), parts.cleanup.controller)


def machines_are_known(parts: Parts) -> Iterator[Problem]:
    """A machine's node is at a controller that there is, and stands once."""
    seen: set[tuple[str, str]] = set()
    for index, machine in parts.machines.items():
        at: KeyPath = ("loans", "machines", index)
        yield from _name_problem(parts, "controllers", (*at, "controller"), machine.controller)
        if (machine.controller, machine.node) in seen:
            text = f'"{machine.node}" stands twice for controller {machine.controller}; leave one out'
            yield Problem(path=(*at, "node"), text=text)
        seen.add((machine.controller, machine.node))


def images_are_there(parts: Parts) -> Iterator[Problem]:
    """Every provider that needs an image gets exactly one."""
    by_name = {provider.name: provider for provider in parts.providers.values()}
    for index, template in parts.templates.items():
        path: KeyPath = ("templates", index, "image")
        if template.image is not None and template.build is not None:
            yield Problem(path=path, text="stands beside `build`; leave one of them out")
        parentless = template.extends is not None and template.extends not in parts.names["templates"].values()
        if template.build is not None or parentless:
            continue
        needing = [
            by_name[name]
            for name in dict.fromkeys(template.providers)
            if name in by_name and by_name[name].backend not in _WITHOUT_IMAGE
        ]
        if template.image is None and needing:
            yield Problem(path=path, text=f"is missing; provider {needing[0].name} needs one, write `image` or `build`")
        elif template.image is not None:
            for backend in dict.fromkeys(provider.backend for provider in needing):
                if template.image_for(backend) is None:
                    name = next(provider.name for provider in needing if provider.backend is backend)
                    text = f"has none for backend {backend} of provider {name}; add `{backend}: IMAGE`"
                    yield Problem(path=path, text=text)


def labels_are_served(parts: Parts) -> Iterator[Problem]:
    """Labels stand once, and their place holders can be filled."""
    for index, template in parts.templates.items():
        yield from _twice((("templates", index, "labels", i), label) for i, label in enumerate(template.labels))
        allowed = {key for key, override in template.overrides if override is not None}
        for place, label in enumerate(template.labels):
            for name in place_holders(label):
                if name not in allowed:
                    text = f"{{{name}}} can be filled only if `overrides` allows it; add `{name}` there"
                    yield Problem(path=("templates", index, "labels", place), text=text)


def inner_names_are_unique(parts: Parts) -> Iterator[Problem]:
    """Nothing in a template takes the name or place of something else in it."""
    for index, template in parts.templates.items():
        at: KeyPath = ("templates", index)
        yield from _twice(((*at, "sidecars", i, "name"), side.name) for i, side in enumerate(template.sidecars))
        yield from _twice(
            [((*at, "volumes", i, "at"), volume.at) for i, volume in enumerate(template.volumes) if volume.at]
            + [((*at, "secrets", i, "at"), secret.at) for i, secret in enumerate(template.secrets) if secret.at]
        )
        yield from _twice(
            [((*at, "remote_fs"), template.remote_fs)]
            + [((*at, "tmpfs", i), folder) for i, folder in enumerate(template.tmpfs)]
        )
        yield from _twice(
            ((*at, "volumes", i), "workspace") for i, volume in enumerate(template.volumes) if volume.workspace
        )


def endpoints_fit(parts: Parts) -> Iterator[Problem]:
    """An endpoint is one that the backend understands, and not open to everyone."""
    for index, provider in parts.providers.items():
        path: KeyPath = ("providers", index, "endpoint")
        backend, endpoint = provider.backend, provider.endpoint
        if endpoint is not None:
            yield from _endpoint(path, backend, endpoint, provider)
        if provider.tls is not None and urlsplit(provider.address or "").scheme != "tcp":
            yield Problem(path=("providers", index, "tls"), text="is for a tcp:// endpoint only; leave it out")
        if provider.ssh is not None and urlsplit(provider.address or "").scheme != "ssh":
            yield Problem(path=("providers", index, "ssh"), text="is for an ssh:// endpoint only; leave it out")


def _endpoint(path: KeyPath, backend: BackendKind, endpoint: str, provider: Provider) -> Iterator[Problem]:
    if backend is BackendKind.PROCESS:
        yield Problem(path=path, text="is not for backend process, which runs on this machine; leave it out")
        return
    if backend is BackendKind.STATIC:
        yield Problem(path=path, text="is not for backend static, whose nodes the controller has; leave it out")
        return
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        yield Problem(path=path, text="is not an address; write one such as unix:///var/run/docker.sock")
        return
    if backend is BackendKind.LIBVIRT:
        if not parts.scheme or "://" not in endpoint:
            yield Problem(path=path, text="is not an address of libvirt; write one such as qemu:///system")
    elif parts.scheme not in _SCHEMES[backend]:
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES[backend])
        yield Problem(path=path, text=f"is not an address for backend {backend}; write one with {schemes}")
    elif parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            yield Problem(path=path, text="must hold an absolute path; write unix:///PATH with three slashes")
    elif not host:
        yield Problem(path=path, text=f"names no host; write {parts.scheme}://HOST")
    elif parts.scheme == "ssh" and parts.path not in ("", "/"):
        yield Problem(path=path, text="holds a path, which ssh:// has not; write ssh://USER@HOST")
    elif parts.scheme == "tcp" and port is None:
        yield Problem(path=path, text="names no port; write tcp://HOST:PORT")
    elif parts.scheme == "tcp" and host not in _LOOPBACK and provider.tls is None:
        text = "is missing; a tcp:// endpoint is open to everyone on the way, add {ca, cert, key} or use ssh://"
        yield Problem(path=(*path[:-1], "tls"), text=text)


def agent_urls_are_of_one_controller(parts: Parts) -> Iterator[Problem]:
    """A provider's `agent_url` is that of a controller; agents of another one would knock at the wrong door."""
    for index, provider in parts.providers.items():
        here = [template for template in parts.templates.values() if provider.name in template.providers]
        served = {c.name for c in parts.controllers.values() if any(template.serves(c.name) for template in here)}
        if provider.agent_url is not None and len(served) > 1:
            names = ", ".join(sorted(served))
            text = (
                f"is one URL and agents of {names} start here; give those controllers an agent_url, or a provider each"
            )
            yield Problem(path=("providers", index, "agent_url"), text=text)


def standby_has_a_bridge(parts: Parts) -> Iterator[Problem]:
    """Without the bridge a node that waits could take any build."""
    for index, template in parts.templates.items():
        off = [c.name for c in parts.controllers.values() if template.serves(c.name) and c.bridge is BridgeChoice.OFF]
        path: KeyPath = ("templates", index, "standby" if template.standby else "standby_hours")
        if template.ever_stands_by and off:
            text = f"needs the bridge, which is off at controller {off[0]}; use 0, or `bridge: auto` there"
            yield Problem(path=path, text=text)
        if template.ever_stands_by and all(place_holders(label) for label in template.labels):
            text = "has no label that a waiting agent could carry; add one without a place holder"
            yield Problem(path=path, text=text)


def gateway_is_found(parts: Parts) -> Iterator[Problem]:
    """A controller that is told to dial the gateway can find it."""
    gateway = parts.gateway
    served = [
        controller
        for template in parts.templates.values()
        if template.transport is TransportKind.SSH_GATEWAY
        for controller in parts.controllers.values()
        if template.serves(controller.name)
    ]
    if gateway is None or gateway.address is not None or not served:
        return
    if gateway.anywhere:
        text = "is missing; `listen` names no address that a controller could dial, write host or host:port"
        yield Problem(path=("gateway", "address"), text=text)
    for controller in served:
        if gateway.place[0] in _LOOPBACK and urlsplit(controller.url).hostname not in _LOOPBACK:
            text = (
                f"is missing; controller {controller.name} is on another machine, so write `listen` with an address of "
                "this one, and here host or host:port as the controller reaches it"
            )
            yield Problem(path=("gateway", "address"), text=text)
            return


def keys_fit_backend(parts: Parts) -> Iterator[Problem]:
    """No key is given that the backend would pass over."""
    for index, provider in parts.providers.items():
        backend = provider.backend
        for key in ("network", "runtime"):
            if getattr(provider, key) is not None and backend in _WITHOUT_IMAGE:
                yield Problem(path=("providers", index, key), text=f"is not for backend {backend}; leave it out")
        if provider.node_labels and backend is not BackendKind.STATIC:
            text = f"is for backend static only, not for {backend}; leave it out"
            yield Problem(path=("providers", index, "node_labels"), text=text)
        for key in ("java", "work_dir"):
            if key in provider.model_fields_set and backend is not BackendKind.PROCESS:
                text = f"is for backend process only, not for {backend}; leave it out"
                yield Problem(path=("providers", index, key), text=text)


def static_nodes_are_looked_after(parts: Parts) -> Iterator[Problem]:
    """Which nodes are clean is known where `cleanup` works, and they come before anything is started."""
    static = {p.name for p in parts.providers.values() if p.backend is BackendKind.STATIC}
    for index, provider in parts.providers.items():
        if provider.name in static and not parts.has_cleanup:
            text = "is for the nodes that `cleanup` looks after; add `cleanup`"
            yield Problem(path=("providers", index, "backend"), text=text)
    for index, template in parts.templates.items():
        started = False
        for place, name in enumerate(template.providers):
            if name in static and started:
                text = f'"{name}" has static nodes, which are asked before anything is started; write it first'
                yield Problem(path=("templates", index, "providers", place), text=text)
            started = started or name not in static
        mine = static.intersection(template.providers)
        if mine and parts.cleanup is not None:
            served = [name for name in parts.names["controllers"].values() if template.serves(name)]
            if served != [parts.cleanup.controller]:
                text = f"must be [{parts.cleanup.controller}]; provider {min(mine)} has nodes of that one only"
                yield Problem(path=("templates", index, "controllers"), text=text)


#: Where nothing can be put into the file system of an agent.
_NOT_THERE: Mapping[BackendKind, str] = {
    BackendKind.PROCESS: "process, whose agents have no file system of their own",
    BackendKind.STATIC: "static, whose nodes are not made for one build",
}


def places_fit_backend(parts: Parts) -> Iterator[Problem]:
    """Secrets and volumes can be where the template wants them."""
    plain = {p.name: _NOT_THERE[p.backend] for p in parts.providers.values() if p.backend in _NOT_THERE}
    for index, template in parts.templates.items():
        at: KeyPath = ("templates", index)
        bare = next((name for name in template.providers if name in plain), None)
        if bare is not None:
            none = f"provider {bare} is of backend {plain[bare]}"
            if template.volumes:
                yield Problem(path=(*at, "volumes"), text=f"cannot be had there: {none}; leave it out")
            for i, secret in enumerate(template.secrets):
                if secret.at is not None or plain[bare] == _NOT_THERE[BackendKind.STATIC]:
                    right = "leave it out" if secret.at is None else "use `env` alone, where agents are processes"
                    key = "env" if secret.at is None else "at"
                    yield Problem(path=(*at, "secrets", i, key), text=f"cannot be had there: {none}; {right}")
        if template.standby and any(volume.workspace for volume in template.volumes):
            text = "cannot be had with `volumes: [{workspace: per-job}]`: an agent that waits has no job yet; use 0"
            yield Problem(path=(*at, "standby"), text=text)
        yield from _secrets_apart(at, template)


def roots_can_be_read_only(parts: Parts) -> Iterator[Problem]:
    """What a template with `read_only` wants besides can be had with it."""
    others = {p.name: p.backend for p in parts.providers.values() if p.backend is not BackendKind.DOCKER}
    for index, template in parts.templates.items():
        at: KeyPath = ("templates", index)
        if template.tmpfs and not template.read_only:
            yield Problem(path=(*at, "tmpfs"), text="is for `read_only: true`; add that, or leave it out")
        if not template.read_only:
            continue
        for name in (name for name in template.providers if name in others):
            text = f"is for backend docker only; provider {name} is of backend {others[name]}, leave it out"
            yield Problem(path=(*at, "read_only"), text=text)
        for i, secret in enumerate(template.secrets):
            if secret.at is not None and PurePosixPath(secret.at).parent == PurePosixPath("/"):
                text = "is at the root, which is read-only; write a path in some folder"
                yield Problem(path=(*at, "secrets", i, "at"), text=text)
        disks = {"resources": template.resources.disk_bytes, "overrides": template.overrides.disk}
        for key in (key for key, disk in disks.items() if disk is not None):
            text = "bounds nothing with `read_only`, where all that is written is in volumes and memory; leave it out"
            yield Problem(path=(*at, key, "disk"), text=text)


def _secrets_apart(at: KeyPath, template: Template) -> Iterator[Problem]:
    """No secret stays behind in what outlives the agent, and none hides another variable."""
    kept = {volume.at: f"the cache {volume.cache}" for volume in template.volumes if volume.at}
    if any(volume.workspace for volume in template.volumes):
        kept[f"{template.remote_fs.rstrip('/')}/workspace"] = "the workspace of the job"
    taken = set(template.env)
    for i, secret in enumerate(template.secrets):
        for folder, what in kept.items():
            if secret.at is not None and PurePosixPath(secret.at).is_relative_to(folder):
                text = f"is in {what}, which outlives the agent; put it somewhere else"
                yield Problem(path=(*at, "secrets", i, "at"), text=text)
        if secret.env is not None and secret.env in taken:
            text = f'"{secret.env}" is set already; write another one or leave this out'
            yield Problem(path=(*at, "secrets", i, "env"), text=text)
        taken.add(secret.env or "")


RULES: tuple[Callable[[Parts], Iterator[Problem]], ...] = (
    names_are_unique,
    something_to_do,
    names_are_known,
    machines_are_known,
    images_are_there,
    labels_are_served,
    inner_names_are_unique,
    endpoints_fit,
    agent_urls_are_of_one_controller,
    standby_has_a_bridge,
    gateway_is_found,
    keys_fit_backend,
    static_nodes_are_looked_after,
    places_fit_backend,
    roots_can_be_read_only,
)


def _twice(named: Iterable[tuple[KeyPath, str]]) -> Iterator[Problem]:
    seen: dict[str, KeyPath] = {}
    for path, name in named:
        if name in seen:
            yield Problem(path=path, text=f'"{name}" is taken already; write another one or leave this out')
        seen.setdefault(name, path)


def _unknown(parts: Parts, kind: str, at: KeyPath, names: tuple[str, ...]) -> Iterator[Problem]:
    counts: Counter[str] = Counter()
    for index, name in enumerate(names):
        counts[name] += 1
        if counts[name] == 2:
            yield Problem(path=(*at, index), text=f'"{name}" stands twice; leave one out')
        elif counts[name] == 1:
            yield from _name_problem(parts, kind, (*at, index), name)


def _name_problem(parts: Parts, kind: str, path: KeyPath, name: str) -> Iterator[Problem]:
    known = list(dict.fromkeys(parts.names[kind].values()))
    if name not in known:
        right = f"write one of {', '.join(known)}" if known else f"add it under `{kind}`"
        yield Problem(path=path, text=f'"{name}" is none of the {kind}; {right}')
