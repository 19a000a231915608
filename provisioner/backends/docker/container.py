"""From an order to what the engine is asked to make (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from provisioner.backends.contract import AGENT_KEY, CACHE_KEY, OWNER_KEY, Order
from provisioner.backends.docker.read_only import MEMORY_OPTIONS, is_read_only, writable
from provisioner.model.errors import LaunchError, Reason

SECRETS_AT = "/run/jenkins-provisioner"
JAR_AT = "/opt/jenkins-provisioner"
JAVA_AT = "/opt/jenkins-provisioner-java"

#: On a container with a workspace that outlives it: the name of the job's volumes, without their number.
WORKSPACE_KEY = "jenkins-provisioner.workspace"
#: On such a volume: whose it is, for a person.
WORKSPACE_OF_KEY = "jenkins-provisioner.workspace.of"

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


#: Where a command listens that has a network of its own; any user may listen there.
PORT = 22022
#: Our own SSH server, where all containers of an engine share it.
SSHD_AT = "/opt/jenkins-provisioner-sshd"
SSHD = (f"{SSHD_AT}/bin/python", "-I", "-S", f"{SSHD_AT}/sshd")
PORT_KEY = "jenkins-provisioner.port"


class Port(NamedTuple):
    """Where a container's command listens."""

    number: int
    published: bool  # the engine maps a port of its host to it


class Cache(NamedTuple):
    """A named volume that outlives the agent."""

    volume: str
    name: str
    at: str


class Workspace(NamedTuple):
    """A volume that the next agent of the job gets."""

    volume: str
    base: str  # the same for all volumes of the job
    of: str


def marks(owner: str, agent: str) -> dict[str, str]:
    """The labels of everything that belongs to an agent."""
    return {OWNER_KEY: owner, AGENT_KEY: agent}


def caches(order: Order) -> tuple[Cache, ...]:
    """The named caches of an order; no two owners share one."""
    listed = order.template.get("volumes")
    found = []
    for volume in listed if isinstance(listed, Sequence) else ():
        if isinstance(volume, Mapping) and volume.get("cache") and volume.get("at"):
            cache = str(volume["cache"])
            found.append(Cache(f"jenkins-provisioner-cache-{order.owner}-{cache}", cache, str(volume["at"])))
    return tuple(found)


def workspace_at(order: Order) -> str:
    """Where the agent has the folders of its builds."""
    return f"{order.remote_fs.rstrip('/')}/workspace"


def command(order: Order, java: Sequence[str], *, port: int = PORT) -> list[str]:
    """The order's command with the paths as the container sees them.

    Args:
        order: with place holders in its command.
        java: the program, and options that come first.
        port: on which it listens, if it does.
    """
    program, *options = java
    places = {
        "{java}": program,
        "{jar}": f"{JAR_AT}/agent.jar",
        "{secrets}": SECRETS_AT,
        "{work}": order.remote_fs,
        "{port}": str(port),
    }
    words: list[str] = []
    for asked in order.command:
        if asked == "{sshd}":
            words += SSHD
            continue
        word = asked
        for place, value in places.items():
            word = word.replace(place, value)
        words += [word, *options] if asked == "{java}" else [word]
    return words


def body(
    order: Order,
    *,
    java: Sequence[str],
    network: str | None,
    runtime: str | None,
    shared: Sequence[Mapping[str, object]],
    before: Sequence[str] = (),
    workspace: Workspace | None = None,
    port: Port | None = None,
) -> dict[str, object]:
    """The request that makes the container.

    Args:
        order: what is asked for.
        java: the program, and options that come first.
        network: what it joins.
        runtime: what runs it.
        shared: mounts of what all containers share.
        before: a program with arguments that ends as the command that follows it.
        workspace: what outlives it of its work folder.
        port: where its command listens, if it does.

    The secret volume is writable, since the engine puts no file into a read-only one; its folder and files
    belong to root and to the agent's user, each with no more rights than it needs.
    """
    words = [*before, *command(order, java, port=port.number if port else PORT)]
    mounts: list[dict[str, object]] = [
        _volume(order.agent, SECRETS_AT, marks(order.owner, order.agent)),
        *(_volume(cache.volume, cache.at, {CACHE_KEY: cache.name}) for cache in caches(order)),
        *(dict(one) for one in shared),
    ]
    labels = marks(order.owner, order.agent)
    if workspace is not None:
        kept = {CACHE_KEY: "workspace", WORKSPACE_OF_KEY: workspace.of}
        mounts.append(_volume(workspace.volume, workspace_at(order), kept))
        labels[WORKSPACE_KEY] = workspace.base
    host = _host(order, mounts)
    if network:
        host["NetworkMode"] = network
    if runtime:
        host["Runtime"] = runtime
    if port and port.published:
        host["PortBindings"] = {f"{port.number}/tcp": [{"HostPort": ""}]}
    made: dict[str, object] = {
        "Image": order.image,
        "Entrypoint": words[:1],
        "Cmd": words[1:],
        "WorkingDir": order.remote_fs,
        "Env": [f"{key}={value}" for key, value in {**order.env, **_secret_paths(order)}.items()],
        "Labels": {**labels, **({PORT_KEY: str(port.number)} if port else {})},
        "Healthcheck": {"Test": ["NONE"]},  # the image's own is for its own command
        "HostConfig": host,
    }
    if port and port.published:
        made["ExposedPorts"] = {f"{port.number}/tcp": {}}
    if order.channel:
        # who opens the channel holds the input: when they go, it ends, and the agent with it
        made |= dict.fromkeys(("OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr"), True)
    if order.run_as:
        made["User"] = order.run_as
    return made


def _host(order: Order, mounts: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What the engine's machine gives to the container: limits, names, mounts, and places to write to."""
    host: dict[str, object] = {
        "Init": True,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
        "Mounts": mounts,
        **dict(_limits(order.template)),
        **dict(_names(order.template)),
    }
    if is_read_only(order):
        open_at = writable(order, [str(mount["Target"]) for mount in mounts])
        on_disk = [_volume(None, folder, marks(order.owner, order.agent)) for folder in open_at.on_disk]
        host["Mounts"] = [*mounts, *on_disk]
        host |= {"ReadonlyRootfs": True, "Tmpfs": dict.fromkeys(open_at.in_memory, MEMORY_OPTIONS)}
    if order.channel:
        host["LogConfig"] = {"Type": "none"}  # or all that a build sends were written to the engine's disk
    return host


def _secret_paths(order: Order) -> dict[str, str]:
    return {file.env: file.at or f"{SECRETS_AT}/{file.name}" for file in order.files if file.env}


def _volume(source: str | None, target: str, labels: Mapping[str, str]) -> dict[str, object]:
    """A volume with its name, or one without that goes with its container and begins as the image's folder."""
    options = {"NoCopy": source is not None, "Labels": dict(labels)}
    return {"Type": "volume", "Target": target, "VolumeOptions": options, **({"Source": source} if source else {})}


def _limits(template: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    resources = _part(template, "resources")
    if cpus := resources.get("cpus"):
        yield "NanoCpus", int(float(str(cpus)) * 1e9)
    if memory := _bytes(resources, "memory"):
        yield "Memory", memory
        yield "MemorySwap", memory  # memory and swap together: no swap
    if pids := resources.get("pids"):
        yield "PidsLimit", int(str(pids))
    if shm := _bytes(resources, "shm"):
        yield "ShmSize", shm
    if disk := _bytes(resources, "disk"):
        yield "StorageOpt", {"size": str(disk)}
    devices = resources.get("devices")
    if isinstance(devices, Sequence) and devices:
        yield (
            "Devices",
            [{"PathOnHost": str(d), "PathInContainer": str(d), "CgroupPermissions": "rwm"} for d in devices],
        )
    if gpus := int(str(resources.get("gpus") or 0)):
        yield "DeviceRequests", [{"Count": gpus, "Capabilities": [["gpu"]]}]


def _names(template: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    if hosts := _part(template, "extra_hosts"):
        yield "ExtraHosts", [f"{host}:{address}" for host, address in hosts.items()]
    dns = template.get("dns")
    if isinstance(dns, Sequence) and dns:
        yield "Dns", [str(server) for server in dns]


def disk_bytes(template: Mapping[str, object]) -> int | None:
    """The bound of the container's own disk; None without one."""
    return _bytes(_part(template, "resources"), "disk")


def limits_text(template: Mapping[str, object]) -> str:
    """The limits in words, for the launch log."""
    resources = _part(template, "resources")
    told = []
    if cpus := resources.get("cpus"):
        told.append(f"{cpus} CPUs")
    if memory := _bytes(resources, "memory"):
        told.append(f"{memory / (1 << 20):.0f} MB memory")
    if pids := resources.get("pids"):
        told.append(f"{pids} processes")
    if disk := _bytes(resources, "disk"):
        told.append(f"{disk / (1 << 20):.0f} MB disk")
    devices = resources.get("devices")
    if isinstance(devices, Sequence) and devices:
        told.append(f"devices {' '.join(map(str, devices))}")
    if gpus := resources.get("gpus"):
        told.append(f"{gpus} GPUs")
    if template.get("read_only"):
        told.append("read-only root")
    return ", ".join(told) or "no limits"


def _part(template: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = template.get(key)
    return found if isinstance(found, Mapping) else {}


def _bytes(resources: Mapping[str, object], key: str) -> int | None:
    """A size: bytes, or a number with a unit."""
    value = resources.get(f"{key}_bytes", resources.get(key))
    if value is None:
        return None
    text = str(value).strip().lower()
    digits = text.rstrip("bkmgt")
    unit = text[len(digits) :]
    if not digits.isdigit() or unit not in _UNITS:
        raise LaunchError(f"`resources.{key}: {value}` is no size; write 512m or 4g", reason=Reason.TEMPLATE_INVALID)
    return int(digits) * _UNITS[unit]
