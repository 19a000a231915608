"""The parts of the dashboard, each made anew at every refresh. Names of jobs and labels are hostile input."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from urllib.parse import quote

from provisioner.capacity.plant import Bounded, Plant
from provisioner.model.agent import Agent, AgentState
from provisioner.model.queue import ItemKind
from provisioner.web.figures import badge, capacity_bar, dot, duration, legend, phase_bar, table
from provisioner.web.html import Child, Html, el, join
from provisioner.web.shapes import job_of, phases
from provisioner.web.views import View

#: A page with more rows serves nobody; the API has them all.
_MOST_AGENTS = 200
_MOST_REQUESTS = 100
_MOST_HISTORY = 50

#: An agent in one of these states may still be there for a while although nobody wants it.
_MAY_STAY = frozenset(AgentState) - {AgentState.REMOVING, AgentState.REMOVED}

PARTS = ("controllers", "providers", "agents", "requests", "orphans", "history")


def parts(view: View) -> dict[str, Html]:
    """Every part by its name."""
    return {
        "controllers": controllers(view),
        "providers": providers(view),
        "agents": agents(view),
        "requests": requests(view),
        "orphans": orphans(view),
        "history": history(view),
    }


def controllers(view: View) -> Html:
    """Who is served."""
    desk = view.desk
    now = desk.clock.monotonic()
    urls = {c.name: c.url for c in desk.settings.controllers}
    rows = []
    for handle in desk.controllers.values():
        info = handle.port.info
        if not handle.up:
            state = dot(f"does not answer: {handle.problem}", "bad")
        elif handle.quieting_down:
            state = dot("is about to shut down", "warn")
        else:
            state = dot(f"answers, last heard {duration(max(0.0, now - handle.last_contact))} ago", "ok")
        way = {"off": "plain REST", "script": "bridge", "init": "bridge (init)"}.get(
            info.mode.value if info else "", ""
        )
        rows.append(
            el(
                "tr",
                el("td", el("a", handle.name, href=urls.get(handle.name), rel="noreferrer")),
                el("td", el("span", state), class_="wide"),
                el("td", f"Jenkins {info.version}" if info else "", class_="nowrap"),
                el("td", way, class_="nowrap"),
            )
        )
    return _section("Controllers", len(rows), table(("Name", "State", "Version", "Way"), rows))


def providers(view: View) -> Html:
    """Where agents run, and how full it is."""
    plant, tally = view.outlook.plant(), view.outlook.tally()
    rows = []
    for handle in view.desk.providers.values():
        condition = plant.conditions.get(handle.name)
        state = condition.state.value if condition else "open"
        why = "; ".join(_notes(handle.name, plant))
        used, most = tally.by_provider[handle.name], handle.max_agents
        act, words = ("resume", "Resume") if handle.drained else ("drain", "Drain")
        rows.append(
            el(
                "tr",
                el("td", handle.name, class_="nowrap"),
                el("td", handle.kind, class_="soft"),
                el("td", badge(state), " ", el("span", why, class_="soft")),
                el("td", el("div", capacity_bar(used, most), f"{used} of {most}", class_="meter")),
                el("td", button(words, "POST", f"/api/v1/providers/{quote(handle.name, safe='')}/{act}"), class_="num"),
            )
        )
    return _section("Providers", len(rows), table(("Name", "Backend", "State", "Agents", "#"), rows))


def _notes(provider: str, plant: Plant) -> Iterator[str]:
    """What keeps a provider from taking all that it is configured for."""
    condition, bounded = plant.conditions.get(provider), plant.providers.get(provider)
    if condition is not None and (condition.until or condition.reason):
        yield ": ".join(word for word in (condition.until, condition.reason) if word)
    if isinstance(bounded, Bounded) and (words := bounded.words()):
        yield words
    for (where, template), pair in sorted(plant.pair_conditions.items()):
        if where == provider:
            yield f"template {template} is {pair}"


def agents(view: View) -> Html:
    """The live ones."""
    now = view.desk.clock.now()
    found = view.agents()
    if not found:
        return _section("Agents", 0, el("p", "No build has an agent now."))
    rows = []
    for agent in found[:_MOST_AGENTS]:
        inside_s = max(0.0, (now - agent.marks.get(agent.state.value, agent.created_at)).total_seconds())
        rows.append(
            el(
                "tr",
                el("td", agent_link(agent.name), class_="name"),
                el("td", badges(agent, now)),
                el("td", duration(inside_s), class_="num"),
                el("td", phase_bar([*phases(agent).items(), (agent.state.value, inside_s)])),
                el("td", agent.template),
                el("td", agent.provider),
                el("td", build_link(view, agent), class_="wide"),
            )
        )
    heads = ("Agent", "State", "#For", "Phases", "Template", "Provider", "Build")
    return _section("Agents", len(found), table(heads, rows), legend(), _rest(len(found) - _MOST_AGENTS))


def badges(agent: Agent, now: datetime) -> Html:
    """Its state, and whether it is held."""
    held = agent.held(now)
    left_s = (agent.held_until - now).total_seconds() if agent.held_until else 0.0
    return join(
        badge(agent.state.value),
        join(" ", badge("held", f"held for {duration(left_s)}")) if held else None,
        join(" ", badge("removing", "unwanted")) if agent.target == "gone" and agent.state in _MAY_STAY else None,
    )


def agent_link(name: str) -> Html:
    """To its page."""
    return el("a", name, href=f"/agents/{quote(name, safe='')}")


def build_link(view: View, agent: Agent) -> Html:
    """To its build, or to the job while there is no build."""
    if agent.request is None:
        return el("span", "standby", class_="soft")
    task = agent.request.task
    path = agent.build_url or task
    base = next((c.url for c in view.desk.settings.controllers if c.name == agent.controller), None)
    words = job_of(agent.build_url or task)
    if agent.kind is ItemKind.PIPELINE and not agent.build_url:
        words = job_of(task)
    # only a path below the controller: the URL came over the network
    if base is None or ":" in path or path.startswith("/") or "\\" in path:
        return join(words)
    return el("a", words, href=f"{base.rstrip('/')}/{path}", rel="noreferrer")


def requests(view: View) -> Html:
    """What waits in the queues, and for what."""
    now = view.desk.clock.now()
    waiting = [w for w in view.outlook.waiting() if w.reasons]
    unserved = len(view.desk.book.unserved)
    other = el("p", f"{unserved} more in the queue that no template serves.") if unserved else None
    if not waiting:
        return _section("Waiting requests", 0, el("p", "No build waits for an agent to be placed."), other)
    rows = [
        el(
            "tr",
            el("td", w.request.item.key.queue_id, class_="num"),
            el("td", w.request.item.job, class_="wide"),
            el("td", w.request.item.label, class_="mono"),
            el("td", badge(w.request.state.value)),
            el("td", duration(max(0.0, (now - w.request.first_seen).total_seconds())), class_="num"),
            el("td", w.request.template),
            el("td", "; ".join(w.reasons), class_="wide"),
        )
        for w in waiting[:_MOST_REQUESTS]
    ]
    heads = ("#Item", "Job", "Label", "State", "#For", "Template", "Waits for")
    return _section("Waiting requests", len(waiting), table(heads, rows), _rest(len(waiting) - _MOST_REQUESTS), other)


def orphans(view: View) -> Html:
    """What carries our mark and belongs to no agent."""
    found = view.operations.orphans()
    if not found:
        return _section("Orphans", 0, el("p", "Nothing with our mark is without an agent."))
    rows = [
        el(
            "tr",
            el("td", o.kind),
            el("td", o.id, class_="mono"),
            el("td", o.where),
            el("td", "" if o.age_s is None else duration(o.age_s), class_="num"),
            el("td", o.reason),
        )
        for o in found[:_MOST_AGENTS]
    ]
    ask = "Remove what two passes found to belong to no agent?"
    act = el("div", button("Remove now", "DELETE", "/api/v1/orphans", ask=ask), class_="row")
    return _section("Orphans", len(found), table(("Kind", "Id", "Where", "#Age", ""), rows), act)


def history(view: View) -> Html:
    """The latest that are gone."""
    found = view.desk.store.gone_agents(_MOST_HISTORY)
    if not found:
        return _section("Recent agents", 0, el("p", "None yet."))
    rows = []
    for agent in found:
        gone = agent.marks.get(AgentState.REMOVED.value, agent.created_at)
        ran = AgentState.RUNNING.value in agent.marks
        told = agent.reason.value if agent.reason else "done" if ran else "not needed"
        tone = "ok" if told == "done" else "quiet" if told in ("cancelled", "not needed") else "bad"
        rows.append(
            el(
                "tr",
                el("td", agent_link(agent.name), class_="name"),
                el("td", el("span", told, class_=f"badge {tone}")),
                el("td", f"{gone:%H:%M:%S}", class_="num", title=gone.isoformat()),
                el("td", duration(max(0.0, (gone - agent.created_at).total_seconds())), class_="num"),
                el("td", phase_bar(list(phases(agent).items()))),
                el("td", build_link(view, agent), class_="wide"),
                el("td", agent.detail, class_="wide soft"),
            )
        )
    heads = ("Agent", "Outcome", "#Gone (UTC)", "#Lived", "Phases", "Build", "Detail")
    return _section("Recent agents", None, table(heads, rows))


def button(
    words: str, method: str, path: str, *, ask: str | None = None, body: str | None = None, risky: bool = False
) -> Html:
    """Asks the API."""
    return el(
        "button",
        words,
        type="button",
        data_method=method,
        data_path=path,
        data_ask=ask,
        data_body=body,
        class_="risky" if risky else None,
    )


def _section(title: str, count: int | None, *content: Child) -> Html:
    return join(el("h2", title, el("b", count) if count else None), *content)


def _rest(count: int) -> Html | None:
    return el("p", f"and {count} more; the API has them all") if count > 0 else None
