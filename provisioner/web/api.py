"""`/api/v1`: what a program, the command line and the dashboard's buttons ask."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime

from aiohttp import web

from provisioner.config.durations import parse_duration
from provisioner.lifecycle.holding import HOLD_S
from provisioner.lifecycle.operations import Line, Operations
from provisioner.lifecycle.outlook import Outlook
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.model.errors import ProvisionerError
from provisioner.routing.expression import LabelSyntaxError
from provisioner.routing.expression import parse as parse_label
from provisioner.web.answers import BadRequest, answer, fields, flag, number
from provisioner.web.follow import Followers
from provisioner.web.shapes import (
    agent_shape,
    controller_shape,
    orphan_shape,
    provider_shape,
    request_shape,
    template_shape,
)
from provisioner.web.views import View

_MOST_REASON = 500
_MOST_LABEL = 4000
_MOST_GONE = 5000
_PING_S = 3.0


class Api:
    """The handlers.

    Args:
        view: what is read.
        followers: who follows launch logs.
    """

    def __init__(self, view: View, followers: Followers) -> None:
        self._view = view
        self._desk = view.desk
        self._do: Operations = view.operations
        self._outlook: Outlook = view.outlook
        self._followers = followers

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        base = "/api/v1"
        return [
            web.get(f"{base}/agents", self._agents),
            web.get(f"{base}/agents/{{name}}", self._agent),
            web.get(f"{base}/agents/{{name}}/log", self._log),
            web.post(f"{base}/agents/{{name}}/hold", self._hold),
            web.post(f"{base}/agents/{{name}}/release", self._release),
            web.delete(f"{base}/agents/{{name}}", self._delete),
            web.get(f"{base}/requests", self._requests),
            web.get(f"{base}/explain", self._explain),
            web.get(f"{base}/controllers", self._controllers),
            web.get(f"{base}/providers", self._providers),
            web.post(f"{base}/providers/{{name}}/drain", self._drain),
            web.post(f"{base}/providers/{{name}}/resume", self._resume),
            web.get(f"{base}/templates", self._templates),
            web.get(f"{base}/orphans", self._orphans),
            web.delete(f"{base}/orphans", self._delete_orphans),
        ]

    # -- agents

    async def _agents(self, request: web.Request) -> web.Response:
        gone = number(request, "gone", 0, most=_MOST_GONE)
        now = self._desk.clock.now()
        body: dict[str, object] = {"agents": [agent_shape(agent, now) for agent in self._view.agents()]}
        if gone:
            body["gone"] = [agent_shape(agent, now) for agent in self._desk.store.gone_agents(gone)]
        return answer(body)

    async def _agent(self, request: web.Request) -> web.Response:
        return answer(agent_shape(self._do.agent(_name(request)), self._desk.clock.now()))

    async def _log(self, request: web.Request) -> web.StreamResponse:
        name = _name(request)
        accept = request.headers.get("Accept", "").lower()
        since = number(request, "since", 0)
        if request.method == "GET" and (flag(request, "follow") or "text/event-stream" in accept):
            # a browser that lost the stream says which line it has
            last = request.headers.get("Last-Event-ID", "")
            since = int(last) + 1 if re.fullmatch("[0-9]{1,9}", last) else since
            self._do.agent(name)
            return await self._followers.stream(request, self._do, name, since)
        lines = self._do.lines(name, since)
        if "application/json" in accept:
            return answer({"agent": name, "lines": [line_shape(line) for line in lines]})
        text = "".join(f"{_stamp(at)} {text}\n" for _, at, text in lines)
        return web.Response(body=text.encode(errors="replace"), content_type="text/plain", charset="utf-8")

    async def _hold(self, request: web.Request) -> web.Response:
        body = await fields(request, {"for": str, "reason": str})
        reason = body.get("reason", "")
        if not isinstance(reason, str):
            raise BadRequest("reason is no text")
        try:
            for_s = parse_duration(body.get("for", HOLD_S))
        except ValueError as error:
            raise BadRequest(f"for {error}") from error
        if for_s <= 0:
            raise BadRequest("for must be more than 0; to end a hold, release the agent")
        plain = " ".join("".join(c if c.isprintable() else " " for c in reason).split())[:_MOST_REASON]
        agent = self._do.hold(_name(request), for_s=for_s, reason=plain)
        return answer(agent_shape(agent, self._desk.clock.now()))

    async def _release(self, request: web.Request) -> web.Response:
        agent = self._do.release(_name(request))
        return answer(agent_shape(agent, self._desk.clock.now()))

    async def _delete(self, request: web.Request) -> web.Response:
        name = _name(request)
        agent = self._do.delete_now(name) if flag(request, "now") else await self._do.delete(name)
        # its removal goes on by itself; 202 says so
        return answer(agent_shape(agent, self._desk.clock.now()), 202 if agent.live else 200)

    # -- requests

    async def _requests(self, request: web.Request) -> web.Response:
        limit = number(request, "limit", 10**9)
        now = self._desk.clock.now()
        requests = [request_shape(waiting, now) for waiting in self._outlook.waiting(limit)]
        return answer({"requests": requests, "total": len(self._desk.book), "unserved": len(self._desk.book.unserved)})

    async def _explain(self, request: web.Request) -> web.Response:
        item, label = request.query.get("item"), request.query.get("label")
        job, controller = request.query.get("job") or None, request.query.get("controller") or None
        if (item is None) is (label is None):
            raise BadRequest("say either item=QUEUE_ID or label=EXPRESSION")
        if controller is not None and controller not in self._desk.controllers:
            raise BadRequest(f"controller is none of {', '.join(sorted(self._desk.controllers))}")
        if label is not None:
            if not label.strip() or len(label) > _MOST_LABEL:
                raise BadRequest(f"label is no expression of 1 to {_MOST_LABEL} characters")
            try:
                parse_label(label)
            except LabelSyntaxError as error:
                raise BadRequest(error.message) from error
            told = self._outlook.explain_label(label, job, controller)
        else:
            told = self._outlook.explain_item(number(request, "item", 0, most=10**18), controller)
        return answer({**told.as_dict(), "lines": list(told.lines())})

    # -- what is configured

    async def _controllers(self, _request: web.Request) -> web.Response:
        now = self._desk.clock.monotonic()
        urls = {c.name: c.url for c in self._desk.settings.controllers}
        found = [controller_shape(c, urls.get(c.name, ""), now) for c in self._desk.controllers.values()]
        return answer({"controllers": found})

    async def _providers(self, request: web.Request) -> web.Response:
        plant, tally = self._outlook.plant(), self._outlook.tally()
        handles = list(self._desk.providers.values())
        shapes = [provider_shape(handle, plant, tally) for handle in handles]
        if flag(request, "ping"):
            said = await asyncio.gather(*(_ping(handle) for handle in handles))
            shapes = [{**shape, "ping": text} for shape, text in zip(shapes, said, strict=True)]
        return answer({"providers": shapes})

    async def _drain(self, request: web.Request) -> web.Response:
        self._do.drain(_name(request))
        return self._provider(_name(request))

    async def _resume(self, request: web.Request) -> web.Response:
        self._do.resume(_name(request))
        return self._provider(_name(request))

    def _provider(self, name: str) -> web.Response:
        return answer(provider_shape(self._do.provider(name), self._outlook.plant(), self._outlook.tally()))

    async def _templates(self, _request: web.Request) -> web.Response:
        tally = self._outlook.tally()
        return answer({"templates": [template_shape(t, tally) for t in self._desk.settings.templates]})

    # -- orphans

    async def _orphans(self, _request: web.Request) -> web.Response:
        return answer({"orphans": [orphan_shape(orphan) for orphan in self._do.orphans()]})

    async def _delete_orphans(self, _request: web.Request) -> web.Response:
        removed, left = await self._do.delete_orphans()
        return answer({"removed": [orphan_shape(o) for o in removed], "left": [orphan_shape(o) for o in left]})


def line_shape(line: Line) -> dict[str, object]:
    """One line of a launch log."""
    n, at, text = line
    return {"n": n, "at": at, "text": text}


def _stamp(at: str) -> str:
    return datetime.fromisoformat(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name(request: web.Request) -> str:
    return request.match_info["name"]


async def _ping(handle: ProviderHandle) -> str:
    """What the provider says of itself, or why it does not."""
    try:
        async with asyncio.timeout(_PING_S):
            return await handle.backend.ping()
    except TimeoutError:
        return f"no answer within {_PING_S:.0f} s"
    except ProvisionerError as error:
        return error.message
