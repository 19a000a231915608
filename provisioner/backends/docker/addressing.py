"""Where the controller reaches the port on which a container's command listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from provisioner.backends.contract import AGENT_KEY
from provisioner.backends.docker.container import PORT, PORT_KEY, Port
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.backends.docker.faults import read_error
from provisioner.backends.docker.reading import READ_S
from provisioner.transports.dialling import Address

_LOOPBACK = "127.0.0.1"


class Addressing:
    """The ports of the containers of one engine.

    Args:
        engine: where they are.
        network: what they join.
        host: a name of the engine's host as the controller reaches it; None: it reaches containers themselves.
    """

    def __init__(self, engine: Engine, *, network: str | None, host: str | None) -> None:
        self._engine = engine
        self._on_host = network == "host"
        self._host = host

    def port(self) -> Port:
        """Where a new container's command is to listen."""
        if self._on_host:
            return Port(_free(), published=False)  # all of them share one network
        return Port(PORT, published=self._host is not None)

    def look(self, agent: str, ids: Mapping[str, str]) -> Address | None:
        """The address of a running container; None: it has none (yet).

        Raises:
            LaunchError: the engine does not answer.
        """
        try:
            path = f"/containers/{name(ids.get('container', agent))}/json"
            found = self._engine.call("GET", path, timeout_s=READ_S).json()
        except RefusedError as refused:
            if refused.code == 404:
                return None
            raise read_error(refused, f"address of {agent}") from refused
        if not isinstance(found, Mapping):
            return None
        labels = found["Config"]["Labels"] or {}
        number = labels.get(PORT_KEY, "")
        if labels.get(AGENT_KEY) != agent or not number.isdigit() or not found["State"]["Running"]:
            return None
        if self._on_host:
            return Address(host=self._host or _LOOPBACK, port=int(number))
        settings = found["NetworkSettings"]
        if self._host is not None:
            mapped = next(iter((settings.get("Ports") or {}).get(f"{number}/tcp") or ()), None)
            return Address(host=self._host, port=int(mapped["HostPort"])) if mapped else None
        at = next(_addresses(settings), None)
        return Address(host=at, port=int(number)) if at else None


def _addresses(settings: Mapping[str, object]) -> Iterator[str]:
    networks = settings.get("Networks")
    for network in networks.values() if isinstance(networks, Mapping) else ():
        for key in ("IPAddress", "GlobalIPv6Address"):
            if isinstance(network, Mapping) and network.get(key):
                yield str(network[key])


def _free() -> int:
    """A port that nothing listens on here; somebody may take it before the container does, and its launch fails."""
    with socket.socket() as held:
        held.bind(("", 0))
        return int(held.getsockname()[1])
