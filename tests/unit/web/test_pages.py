"""The dashboard: what it shows, and that nothing hostile becomes markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.web.figures import duration, phase_bar
from provisioner.web.html import Html, el, join
from provisioner.web.shapes import job_of
from tests.unit.web.conftest import Served, gone, running

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"


class Tags(HTMLParser):
    """Every start tag and every attribute name; the text outside scripts."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


async def test_the_dashboard_shows_every_part(make_served: Callable[..., Any]) -> None:
    served = await make_served(box_agents=1)
    done = await running(served)
    served.house.controller.finish_build(done)
    await gone(served, done)
    name = await running(served, job="second")
    served.house.controller.queue(job="third")
    await served.house.until(lambda: len(served.house.desk.book) == 1)
    page = Tags(await served.ask("/"))
    text = " ".join(page.texts)
    for words in (name, done, "second", "third", "provider box is full (1 of 1 agents)", "1 of 1", "Jenkins 2.460"):
        assert words in text
    assert f"/agents/{name}" in page.links
    assert "http://127.0.0.1:1/job/second/1/" in page.links
    parts = await served.ask("/parts")
    assert set(parts) == {"controllers", "providers", "agents", "requests", "orphans", "history", "state"}


async def test_the_policy_lets_only_our_own_script_run(served: Served) -> None:
    async with served.bare.get("/", headers=served.bearer) as answer:
        policy = answer.headers["Content-Security-Policy"]
        document = await answer.text()
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    [nonce] = set(re.findall(r"'nonce-([^']+)'", policy))
    assert document.count(f'nonce="{nonce}"') == 2
    async with served.bare.get("/", headers=served.bearer) as answer:
        assert nonce not in answer.headers["Content-Security-Policy"]
    page = Tags(document)
    assert page.tags.count("script") == 1
    assert not {name for name in page.attributes if name.startswith("on")} | (page.attributes & {"style", "src"})


async def test_hostile_names_stay_text(make_served: Callable[..., Any]) -> None:
    served = await make_served(box_agents=1)
    house = served.house
    name = await running(served, job=HOSTILE)
    house.desk.agents[name].log.say(HOSTILE)
    await served.ask(f"/api/v1/agents/{name}/hold", "POST", json={"reason": HOSTILE})
    house.controller.queue(job=HOSTILE, label='maven||"<b>"')
    house.controller.queue(job="javascript:alert(3)")
    await house.until(lambda: len(house.desk.book) == 2)
    house.desk.providers["box"].problem = HOSTILE
    house.desk.providers["box"].up = False
    for path in ("/", f"/agents/{name}"):
        page = Tags(await served.ask(path))
        assert page.tags.count("script") == 1
        assert "img" not in page.tags
        assert not any(link.lower().startswith("javascript:") for link in page.links)
    for path in ("/parts", f"/agents/{name}/parts"):
        for part in (await served.ask(path)).values():
            assert "<script" not in part
            assert "<img" not in part
    assert HOSTILE in " ".join(Tags(await served.ask("/")).texts)


async def test_an_agents_page_has_its_buttons_and_its_log(served: Served) -> None:
    name = await running(served)
    document = await served.ask(f"/agents/{name}")
    assert f'data-stream="/api/v1/agents/{name}/log?follow=1"' in document
    assert f'data-path="/api/v1/agents/{name}?now=true"' in document
    served.house.controller.finish_build(name)
    await gone(served, name)
    document = await served.ask(f"/agents/{name}")
    assert "data-path" not in document.partition("<script")[0]
    assert "there is no agent" in await served.ask("/agents/nobody", status=404)


@given(st.text(), st.text())
def test_no_text_becomes_markup(text: str, attribute: str) -> None:
    made = el("p", text, join(text), el("b", text), title=attribute)
    parsed = Tags(made)
    assert parsed.tags == ["p", "b"]
    assert parsed.attributes == {"title"}


def test_markup_stays_markup() -> None:
    assert el("p", Html("<b>x</b>"), 3, None, class_="a", hidden=False, autofocus=True) == (
        '<p class="a" autofocus><b>x</b>3</p>'
    )
    assert el("meta", charset="utf-8") == '<meta charset="utf-8">'


@pytest.mark.parametrize(
    ("task", "job"),
    [
        ("job/app/", "app"),
        ("job/team/job/app/", "team/app"),
        ("job/team/job/app/3/", "team/app #3"),
        ("job/7/", "7"),
        ("job/a%20b/", "a b"),
        ("odd", "odd"),
        ("", ""),
    ],
)
def test_the_job_of_a_task(task: str, job: str) -> None:
    assert job_of(task) == job


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.421, "0.42 s"), (42, "42 s"), (200, "3 min 20 s"), (18_120, "5 h 2 min"), (273_600, "3 d 4 h")],
)
def test_durations_for_a_person(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.lists(st.floats(0, 1e9), max_size=8))
def test_a_phase_bar_never_leaves_its_frame(times: list[float]) -> None:
    bar = phase_bar([("running", seconds) for seconds in times])
    ends = [float(x) + float(w) for x, w in re.findall(r'x="([0-9.]+)" width="([0-9.]+)"', bar)]
    assert len(ends) == len(times)
    assert all(end <= 100.1 for end in ends)


async def test_on_a_narrow_screen_each_cell_has_its_head_beside_it(served: Served) -> None:
    await running(served, job='a<td class="x">')
    page = await served.ask("/")
    row = page[page.index("<h2>Agents") :]
    row = row[row.index("<tbody>") : row.index("</tbody>")]
    heads = re.findall(r'<td data-head="([^"]*)"', row)
    assert heads == ["Agent", "State", "For", "Phases", "Template", "Provider", "Build"]


async def test_an_agent_that_is_gone_is_not_called_unwanted(served: Served) -> None:
    name = await running(served)
    await served.ask(f"/api/v1/agents/{name}?now=true", "DELETE", status=202)
    await gone(served, name)
    assert "unwanted" not in await served.ask(f"/agents/{name}")
