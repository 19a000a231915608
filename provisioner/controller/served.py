"""What a controller serves to agents: its agent.jar, and its TCP port."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from provisioner.controller.agent_port import agent_port
from provisioner.controller.port import AgentPort
from provisioner.controller.rest import Rest
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError

_AGENT_JAR_S = 60.0
_PORT_S = 60.0  # for so long a look at the port is believed


class Served:
    """Kept as long as it holds.

    Args:
        http: the controller's HTTP.
        pool: its threads.
        monotonic: a clock.
    """

    def __init__(self, http: Rest, pool: DaemonPool, monotonic: Callable[[], float]) -> None:
        self._http = http
        self._pool = pool
        self._monotonic = monotonic
        self._jar: tuple[str, bytes] | None = None
        self._ports: dict[str, tuple[float, AgentPort]] = {}

    async def agent_jar(self) -> bytes:
        """The controller's own agent.jar; read once for each start of the controller."""
        session = self._http.session
        if self._jar is None or self._jar[0] != session:
            answer = await self._pool.run(
                self._http.call, "GET", "jnlpJars/agent.jar", op="agent_jar", timeout_s=_AGENT_JAR_S
            )
            if not answer.content.startswith(b"PK"):
                raise ControllerError(
                    f"controller {self._http.name}: jnlpJars/agent.jar is no archive", code=answer.status
                )
            self._jar = (session, answer.content)
        return self._jar[1]

    async def agent_port(self, agent_url: str) -> AgentPort:
        """The TCP port for agents that reach the controller at this URL."""
        now = self._monotonic()
        seen = self._ports.get(agent_url)
        if seen is None or now - seen[0] > _PORT_S:
            look = partial(agent_port, self._http, agent_url, op="agent_port")
            seen = self._ports[agent_url] = (now, await self._pool.run(look))
        return seen[1]
