"""A look at a controller's TCP port for agents, as agent.jar begins: `Protocol:Ping`."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from provisioner.controller.port import AgentPort
from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError

_LOOK_S = 5.0
_HEADERS = ("X-Jenkins-JNLP-Port", "X-Hudson-JNLP-Port")
_PING = b"Protocol:Ping"


def agent_port(http: Rest, agent_url: str, *, op: str) -> AgentPort:
    """Where agents would dial, and what is wrong with it.

    Args:
        http: the controller.
        agent_url: as agents reach it; its host is the port's, if the controller announces no other.
        op: what the question is for, in a word.

    Raises:
        ControllerError: the controller does not answer.
    """
    host = urlsplit(agent_url).hostname or ""
    try:
        headers = http.call("GET", "tcpSlaveAgentListener/", op=op).headers
    except ControllerError as error:
        if error.code == 404:
            return AgentPort(host=host, port=None)
        raise
    host = headers.get("X-Jenkins-JNLP-Host") or host
    port = next((int(headers[name]) for name in _HEADERS if str(headers.get(name, "")).isdigit()), None)
    if port is None:
        return AgentPort(host=host, port=None)
    return AgentPort(host=host, port=port, problem=_ping(host, port))


def _ping(host: str, port: int) -> str:
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=_LOOK_S) as connection:
            connection.sendall(len(_PING).to_bytes(2, "big") + _PING)
            said = connection.recv(200)
    except OSError as error:
        return f"{where} cannot be reached from here: {error.strerror or error or type(error).__name__}"
    return "" if said.startswith(b"Ping") else f"what answers at {where} is no port for agents"
