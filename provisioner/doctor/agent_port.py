"""A look at a controller's TCP port for agents, as agent.jar begins: `Protocol:Ping`."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError

_LOOK_S = 5.0
_HEADERS = ("X-Jenkins-JNLP-Port", "X-Hudson-JNLP-Port")
_PING = b"Protocol:Ping"


def agent_port(http: Rest, agent_url: str) -> tuple[str, int | None, str]:
    """Where agents would dial, and what is wrong with it.

    Returns:
        Host, port (None: it is disabled), and a problem, or "".
    """
    host = urlsplit(agent_url).hostname or ""
    try:
        headers = http.call("GET", "tcpSlaveAgentListener/", op="doctor").headers
    except ControllerError as error:
        if error.code == 404:
            return host, None, ""
        raise
    host = headers.get("X-Jenkins-JNLP-Host") or host
    port = next((int(headers[name]) for name in _HEADERS if str(headers.get(name, "")).isdigit()), None)
    if port is None:
        return host, None, ""
    return host, port, _ping(host, port)


def _ping(host: str, port: int) -> str:
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=_LOOK_S) as connection:
            connection.sendall(len(_PING).to_bytes(2, "big") + _PING)
            said = connection.recv(200)
    except OSError as error:
        return f"{where} cannot be reached from here: {error.strerror or error or type(error).__name__}"
    return "" if said.startswith(b"Ping") else f"what answers at {where} is no port for agents"
