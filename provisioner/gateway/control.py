"""The gateway's side of the control socket: what the sidecar may ask of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from provisioner.backends.catalogue import make_backend
from provisioner.backends.contract import Backend, InstanceState
from provisioner.gateway.admissions import Admissions
from provisioner.gateway.ssh import key_data
from provisioner.gateway.wire import MOST_LINE, address_of, dump_error, line, load_place
from provisioner.model.errors import LaunchError, Reason

log = structlog.get_logger()

Answer = dict[str, object]


class Control:
    """Answers sidecars.

    Args:
        admissions: what they change.
        hello: what the gateway says of itself.
        retire: called when a sidecar wants the gateway to end and it has no agent left.
    """

    def __init__(self, admissions: Admissions, *, hello: Callable[[], Answer], retire: Callable[[], None]) -> None:
        self._admissions = admissions
        self._hello = hello
        self._retire = retire
        self._retired = False
        self._backends: dict[str, Backend] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.sidecars = 0
        self._acts: dict[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]] = {
            "hello": self._say_hello,
            "admit": self._admit,
            "open": self._open,
            "revoke": self._revoke,
            "agents": self._agents,
            "tail": self._tail,
            "retire": self._retire_if_idle,
        }

    async def open(self, path: Path) -> None:
        """Listen; whoever was there before is dead, since we hold the lock."""
        path.unlink(missing_ok=True)  # noqa: ASYNC240  (once in a life)
        with address_of(path) as address:
            self._server = await asyncio.start_unix_server(self._serve, address, limit=MOST_LINE)
        path.chmod(0o600)  # noqa: ASYNC240  (once in a life)

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        for backend in self._backends.values():
            await backend.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sidecars += 1
        try:
            while asked := await reader.readline():
                # an `open` may take its time; what else is asked does not wait for it
                task = asyncio.create_task(self._answer(asked, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except (OSError, ValueError) as error:  # ValueError: a line that is too long
            log.info("sidecar.lost", problem=str(error))
        finally:
            self.sidecars -= 1
            writer.close()

    async def _answer(self, asked: bytes, writer: asyncio.StreamWriter) -> None:
        number: object = None
        try:
            message = json.loads(asked)
            number = message["id"]
            act = self._acts.get(message["op"])
            if act is None:
                raise LaunchError(f"this gateway does not know `{message['op']}`", reason=Reason.INTERNAL_ERROR)
            answer: Answer = {"id": number, **await act(message)}
        except LaunchError as error:
            answer = {"id": number, "error": dump_error(error)}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("question.malformed", problem=repr(error))
            told = LaunchError(f"the gateway did not understand: {error!r}", reason=Reason.INTERNAL_ERROR)
            answer = {"id": number, "error": dump_error(told)}
        except Exception as error:  # a fault of ours must not leave the sidecar without an answer
            log.exception("question.fault")
            told = LaunchError(f"the gateway stumbled: {error!r}", reason=Reason.INTERNAL_ERROR)
            answer = {"id": number, "error": dump_error(told)}
        if not writer.is_closing():
            writer.write(line(answer))

    async def _say_hello(self, _message: Mapping[str, Any]) -> Answer:
        return {**self._hello(), "agents": len(self._admissions)}

    async def _admit(self, message: Mapping[str, Any]) -> Answer:
        if self._retired:
            raise LaunchError(
                "the gateway is about to end; its successor is asked",
                reason=Reason.PROVIDER_UNREACHABLE,
                retryable=True,
            )
        self._admissions.admit(
            str(message["agent"]), root=str(message["root"]), jar=str(message["jar"]), key=key_data(message["key"])
        )
        return {}

    async def _open(self, message: Mapping[str, Any]) -> Answer:
        agent, ids = str(message["agent"]), {str(k): str(v) for k, v in message["ids"].items()}
        backend = self._backend(message["provider"])

        async def exit_code() -> int | None:
            found = await backend.status(agent, ids)
            if found.state is InstanceState.MISSING:
                return 255
            return found.exit_code

        await self._admissions.open(agent, lambda: backend.open_channel(agent, ids), exit_code)
        return {}

    def _backend(self, provider: Mapping[str, Any]) -> Backend:
        """Of these very settings: a provider may be changed while its old instances still run."""
        key = json.dumps(provider, sort_keys=True)
        if key not in self._backends:
            self._backends[key] = make_backend(load_place(provider))
        return self._backends[key]

    async def _revoke(self, message: Mapping[str, Any]) -> Answer:
        await self._admissions.revoke(str(message["agent"]))
        return {}

    async def _agents(self, _message: Mapping[str, Any]) -> Answer:
        return {
            "agents": [
                {"agent": one.agent, "stage": one.stage.value, "bytes_in": one.bytes_in, "bytes_out": one.bytes_out}
                for one in self._admissions.all()
            ]
        }

    async def _tail(self, message: Mapping[str, Any]) -> Answer:
        found = self._admissions.get(str(message["agent"]))
        return {"lines": list(await found.last_words()) if found is not None else []}

    async def _retire_if_idle(self, _message: Mapping[str, Any]) -> Answer:
        if len(self._admissions):
            return {"retired": False}
        self._retired = True
        # the answer goes out first
        asyncio.get_running_loop().call_later(0.05, self._retire)
        return {"retired": True}
