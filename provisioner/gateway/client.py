"""The sidecar's side of the gateway: find it or start it, and tell it whom the controller may reach."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from provisioner import __version__
from provisioner.gateway.wire import MOST_LINE, PROTOCOL, address_of, line, load_error, socket_in
from provisioner.model.errors import LaunchError, Reason

log = structlog.get_logger()

_ASK_S = 30.0
_OPEN_S = 120.0
_START_S = 30.0
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.2, 10.0
_REPLACE_EVERY_S = 5.0
_MOST_LOG = 8 << 20
#: All of our environment that the gateway gets; the rest may hold the sidecar's token.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Where the controller finds the gateway, and by which key it knows it."""

    host: str
    port: int
    host_key: str


class GatewayClient:
    """Speaks with the gateway of one folder.

    Args:
        folder: the gateway's; beside the state file.
        listen: where a gateway that we start listens: host and port, port 0 for a free one.
        address: how the controller reaches it: host and port, port 0 for the one at which it listens; None: as
            it listens.
        mark: put into the environment of a gateway that we start, so that it is known whose it is.
        needed: whether a gateway must be there; if not, a running one is only used up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listen: tuple[str, int],
        address: tuple[str, int] | None = None,
        mark: Mapping[str, str] | None = None,
        needed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._folder = folder
        self._listen = listen
        self._address = address
        self._mark = dict(mark or {})
        self.needed = needed
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._hello: dict[str, Any] = {}
        self._reached = asyncio.Event()
        self._parted = False
        self._child: subprocess.Popen[bytes] | None = None
        self.problem = "not reached yet"

    # -- what the lifecycle asks

    @property
    def gate(self) -> Gate | None:
        """Where the controller finds it; None while there is none."""
        if self._writer is None or not self._reached.is_set():
            return None
        host, port = self._address or (str(self._hello["host"]), 0)
        return Gate(host=host, port=port or int(self._hello["port"]), host_key=str(self._hello["host_key"]))

    async def admit(self, agent: str, *, root: str, jar: str, key: str) -> Gate:
        """Let the controller reach an agent with a key, once; where it has to dial.

        Raises:
            LaunchError: provider_unreachable; there is no gateway now.
        """
        await self._ready()
        if self._hello["protocol"] != PROTOCOL:
            raise _away(
                f"the gateway of another release (protocol {self._hello['protocol']}) still carries "
                f"{self._hello.get('agents', 'some')} agents and is replaced when they are done"
            )
        await self._ask("admit", agent=agent, root=root, jar=jar, key=key)
        if (gate := self.gate) is None:
            raise _away(self.problem)
        return gate

    async def open(self, agent: str, ids: Mapping[str, str], provider: Mapping[str, object]) -> None:
        """Begin the agent's command and hold its streams.

        Raises:
            LaunchError: as `Backend.open_channel`; provider_unreachable, if there is no gateway now.
        """
        await self._ready()
        await self._ask("open", within_s=_OPEN_S, agent=agent, ids=dict(ids), provider=dict(provider))

    async def revoke(self, agent: str) -> None:
        """End the agent's session for good; no gateway, no session."""
        if self._writer is None:
            if not self._listening():
                return
            await self._ready()
        await self._ask("revoke", agent=agent)

    async def agents(self) -> dict[str, str]:
        """Every agent that the gateway knows, and the stage of its session; none where there is no gateway."""
        if self._writer is None:
            return {}
        return {str(one["agent"]): str(one["stage"]) for one in (await self._ask("agents"))["agents"]}

    async def tail(self, agent: str) -> tuple[str, ...]:
        """The last lines of the agent's standard error; empty if they are not known."""
        try:
            return tuple(map(str, (await self._ask("tail", agent=agent))["lines"]))
        except LaunchError:
            return ()

    # -- its life

    async def run(self) -> None:
        """Keep a gateway at work as long as it is needed, until `part`."""
        pause_s = _PAUSE_FIRST_S
        while not self._parted:
            self._bury()
            if not self.needed() and not self._listening():
                await asyncio.sleep(_REPLACE_EVERY_S)
                continue
            try:
                reader = await self._reach()
                pause_s = _PAUSE_FIRST_S
                await self._stay(reader)
                if self._parted:
                    return
                self.problem = "the gateway went away"
                log.warning("gateway.lost", folder=str(self._folder))
            except (LaunchError, OSError) as error:
                self.problem = str(error)
                log.warning("gateway.unreachable", problem=self.problem)
            finally:
                self._drop()
            await asyncio.sleep(pause_s)
            pause_s = min(_PAUSE_MOST_S, pause_s * 2)

    async def part(self) -> None:
        """Leave it to its agents; one without any ends."""
        self._parted = True
        if self._writer is not None:
            with contextlib.suppress(LaunchError):
                await self._ask("retire", within_s=2.0)
        self._drop()
        if self._child is not None:
            try:
                await asyncio.to_thread(self._child.wait, 1.0)
            except subprocess.TimeoutExpired:
                self._child.returncode = 0  # it lives on without us: nothing to wait for
            self._child = None

    async def _reach(self) -> asyncio.StreamReader:
        """Connect, to a gateway that is there or to one that we start."""
        try:
            reader = await self._connect()
        except OSError:
            if not self.needed():
                raise
            self._start()
            reader = await self._connect_soon()
        return reader

    async def _connect(self) -> asyncio.StreamReader:
        with address_of(socket_in(self._folder)) as address:
            reader, self._writer = await asyncio.open_unix_connection(address, limit=MOST_LINE)
        return reader

    async def _connect_soon(self) -> asyncio.StreamReader:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_S
        while True:
            try:
                return await self._connect()
            except OSError:
                code = self._child.poll() if self._child is not None else 0
                if code not in (None, 0, 3) or loop.time() > deadline:
                    raise _away(f"the gateway does not start: {self._last_line()}") from None
                await asyncio.sleep(0.05)

    def _start(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_file = self._folder / "log"
        if log_file.exists() and log_file.stat().st_size > _MOST_LOG:
            log_file.replace(self._folder / "log.1")
        host, port = self._listen
        listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        environment = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        handle = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # a session of its own: no signal to the sidecar's group reaches it
            self._child = subprocess.Popen(
                [sys.executable, "-m", "provisioner.gateway", str(self._folder.absolute()), "--listen", listen],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                env={**environment, **self._mark},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(handle)
        log.info("gateway.starting", pid=self._child.pid)

    def _last_line(self) -> str:
        try:
            lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:300] if lines else "it says nothing"

    def _bury(self) -> None:
        """A gateway that we started and that ended leaves no zombie."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _listening(self) -> bool:
        return socket_in(self._folder).exists()

    async def _stay(self, reader: asyncio.StreamReader) -> None:
        """Read answers until the gateway is gone."""
        reading = asyncio.create_task(self._read(reader), name="gateway answers")
        try:
            self._hello = await self._ask("hello", protocol=PROTOCOL)
            self._reached.set()
            self.problem = ""
            log.info("gateway.reached", version=self._hello["version"], pid=self._hello["pid"])
            while not reading.done():
                if self._unwanted() and (await self._ask("retire"))["retired"]:
                    log.info("gateway.retired", version=self._hello["version"])
                    await reading
                    return
                await asyncio.wait({reading}, timeout=_REPLACE_EVERY_S)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _unwanted(self) -> bool:
        """Whether it should go as soon as it has no agent: another release's, elsewhere than wanted, or not needed."""
        hello = self._hello
        return (
            hello["protocol"] != PROTOCOL
            or hello["version"] != __version__
            or hello["listen"] != list(self._listen)
            or not self.needed()
        )

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while answer := await reader.readline():
                data = json.loads(answer)
                waiting = self._answers.pop(data["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(data)
        except (OSError, ValueError) as error:
            log.info("gateway.silent", problem=str(error))
        self._drop()

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(_START_S):
                await self._reached.wait()
        except TimeoutError:
            raise _away(self.problem) from None

    async def _ask(self, op: str, *, within_s: float = _ASK_S, **message: object) -> dict[str, Any]:
        writer = self._writer
        if writer is None or writer.is_closing():
            raise _away(self.problem)
        number = next(self._numbers)
        waiting = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(line({"id": number, "op": op, **message}))
            async with asyncio.timeout(within_s):
                answer: dict[str, Any] = await waiting
        except TimeoutError:
            raise _away(f"it does not answer within {within_s:.0f} s") from None
        finally:
            self._answers.pop(number, None)
        if error := answer.get("error"):
            raise load_error(error)
        return answer

    def _drop(self) -> None:
        self._reached.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(_away("the gateway went away"))
        self._answers.clear()


def _away(why: str) -> LaunchError:
    return LaunchError(
        f"the SSH gateway cannot be asked: {why}; it is asked again", reason=Reason.PROVIDER_UNREACHABLE, retryable=True
    )
