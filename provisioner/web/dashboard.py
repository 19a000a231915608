"""The dashboard, and a page for each agent with its launch log."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from provisioner.lifecycle.operations import Unknown
from provisioner.model.agent import Agent, AgentState
from provisioner.web.answers import answer
from provisioner.web.figures import dot, duration
from provisioner.web.health import health, readiness
from provisioner.web.html import Html, el, join
from provisioner.web.pages import header, login_page, page
from provisioner.web.sections import PARTS, agent_link, badges, build_link, button, parts
from provisioner.web.shapes import phases
from provisioner.web.views import View


class Dashboard:
    """The pages' handlers."""

    def __init__(self, view: View) -> None:
        self._view = view

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/", self._all),
            web.get("/parts", self._all_parts),
            web.get("/agents/{name}", self._one),
            web.get("/agents/{name}/parts", self._one_parts),
            web.get("/login", self._login),
        ]

    async def _login(self, _request: web.Request) -> web.Response:
        return login_page()

    async def _all(self, _request: web.Request) -> web.Response:
        owner = self._view.desk.settings.id
        made = self._parts()
        sections = [el("section", made[name], data_part=name) for name in PARTS]
        state = el("span", made["state"], data_part="state")
        return page(f"Provisioner {owner}", join(header(owner, state), el("main", *sections)), parts="/parts")

    async def _all_parts(self, _request: web.Request) -> web.Response:
        return answer(dict(self._parts()))

    def _parts(self) -> dict[str, Html]:
        return {**parts(self._view), "state": _state(self._view)}

    async def _one(self, request: web.Request) -> web.Response:
        owner = self._view.desk.settings.id
        name = request.match_info["name"]
        try:
            agent = self._view.operations.agent(name)
        except Unknown as error:
            body = join(header(owner), el("main", el("section", el("h2", "Agent"), el("p", error.message))))
            return page("Provisioner: no such agent", body, status=404)
        made = self._agent_parts(agent)
        main = el(
            "main",
            el("section", made["agent"], data_part="agent"),
            el("section", el("h2", "Launch log"), el("ol", id="log", data_stream=f"{_api(agent)}/log?follow=1")),
        )
        body = join(header(owner, el("span", made["state"], data_part="state")), main)
        return page(f"{agent.name}: provisioner {owner}", body, parts=f"/agents/{quote(agent.name, safe='')}/parts")

    async def _one_parts(self, request: web.Request) -> web.Response:
        return answer(dict(self._agent_parts(self._view.operations.agent(request.match_info["name"]))))

    def _agent_parts(self, agent: Agent) -> dict[str, Html]:
        return {"agent": _agent(self._view, agent), "state": _state(self._view)}


def _state(view: View) -> Html:
    if not health(view.engine).ok:
        return dot("a loop hangs", "bad")
    if view.engine.planner.stopped:
        return dot("stopping", "warn")
    return dot("ready", "ok") if readiness(view.engine).ok else dot("not ready", "warn")


def _api(agent: Agent) -> str:
    return f"/api/v1/agents/{quote(agent.name, safe='')}"


def _agent(view: View, agent: Agent) -> Html:
    now = view.desk.clock.now()
    hold = f" ({agent.hold_reason})" if agent.hold_reason else ""
    told: list[tuple[str, Html | str | None]] = [
        ("State", badges(agent, now)),
        ("Held until", f"{agent.held_until:%Y-%m-%d %H:%M:%S} UTC{hold}" if agent.held(now) else None),
        ("Reason", f"{agent.detail} ({agent.reason.value})" if agent.reason else agent.detail or None),
        ("Build", build_link(view, agent)),
        ("Template", agent.template),
        ("Provider", agent.provider),
        ("Controller", agent.controller),
        ("Labels", " ".join(agent.labels) or None),
        ("Made", f"{agent.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("Attempt", str(agent.attempt) if agent.attempt > 1 else None),
        ("Phases", ", ".join(f"{state} {duration(s)}" for state, s in phases(agent).items()) or None),
        *((key, el("code", value)) for key, value in sorted(agent.ids.items())),
    ]
    rows = [join(el("dt", name), el("dd", value)) for name, value in told if value is not None]
    return join(el("h2", "Agent ", agent_link(agent.name)), el("dl", *rows), _buttons(agent))


def _buttons(agent: Agent) -> Html | None:
    if not agent.live or agent.state is AgentState.REMOVING:
        return None
    path = _api(agent)
    holds = (
        button("Release", "POST", f"{path}/release")
        if agent.held_until is not None
        else button("Hold for 2 h after its build", "POST", f"{path}/hold", body='{"for": "2h"}')
    )
    return el(
        "div",
        holds,
        button("Delete if no build runs", "DELETE", path),
        button(
            "Delete now", "DELETE", f"{path}?now=true", ask=f"Delete {agent.name} with the build on it?", risky=True
        ),
        class_="row",
    )
