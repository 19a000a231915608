"""Whatever is asked, the answer is clear and the sidecar's own fault never: status 500 is a bug."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from yarl import URL

from tests.unit.web.conftest import Served, running

_WORDS = [
    "",
    "0",
    "1",
    "-1",
    "1e9",
    "99999999999999999999",
    "true",
    "no",
    "nan",
    "maven",
    "maven&&",
    "((",
    "!",
    "a" * 2000,
]
_RAW = [
    "%00",
    "%ff%fe",
    "%c3%28",
    "..",
    "%2e%2e",
    "%2F",
    "%E2%98%83",
    "%0d%0aSet-Cookie:x",
    "'\"<",
    "%25",
    "\\",
    "%ed%a0%80",
    "+",
]
_PATHS = [
    "/api/v1/agents",
    "/api/v1/agents/{}",
    "/api/v1/agents/{}/log",
    "/api/v1/agents/{}/hold",
    "/api/v1/agents/{}/release",
    "/api/v1/requests",
    "/api/v1/explain",
    "/api/v1/controllers",
    "/api/v1/providers",
    "/api/v1/providers/{}/drain",
    "/api/v1/providers/{}/resume",
    "/api/v1/templates",
    "/api/v1/orphans",
    "/agents/{}",
    "/agents/{}/parts",
    "/parts",
    "/login",
    "/{}",
]
_KEYS = ["item", "label", "controller", "job", "since", "now", "gone", "limit", "ping", "follow", "x", ""]
_BODIES = [
    None,
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"for": "1h"}',
    b'{"for": {}}',
    b"[" * 5000,
    b'{"for": 1e999}',
    b'{"reason": null}',
    b'{"reason": "\\ud800"}',
    b'{"for": NaN}',
    b"token=x",
    b'{"for": 123456789012345678901234567890}',
]
_HEADERS = [
    {},
    {"Accept": "text/event-stream"},
    {"Accept": "application/json"},
    {"Last-Event-ID": "x"},
    {"Last-Event-ID": "9" * 30},
    {"Content-Type": "multipart/form-data"},
    {"Content-Type": "application/json; charset=nope"},
]


async def test_no_input_is_a_fault_of_ours(make_served: Callable[..., Any]) -> None:
    served: Served = await make_served()
    house = served.house
    real = await running(served)
    house.controller.queue(label="windows", job="☃")
    chance = random.Random(20240601)
    statuses: dict[int, int] = {}
    for _ in range(800):
        name = chance.choice([real, "box", *_RAW, *(quote(word, safe="") for word in _WORDS)]) or "x"
        path = chance.choice(_PATHS).format(name)
        query = "&".join(
            f"{chance.choice(_KEYS)}={chance.choice([*_RAW, *(quote(w, safe='') for w in _WORDS)])}"
            for _ in range(chance.randrange(3))
        )
        method = chance.choice(["GET", "GET", "GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD", "PATCH"])
        url = URL(f"{served.url}{path}{'?' + query if query else ''}", encoded=True)
        headers = {**served.bearer, **chance.choice(_HEADERS)}
        if real in path and (method == "DELETE" or headers.get("Accept") == "text/event-stream" or "follow" in query):
            continue  # would end it, or would never end
        async with served.bare.request(
            method, url, headers=headers, data=chance.choice(_BODIES), allow_redirects=False
        ) as answer:
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            body = await answer.read()
            assert answer.status < 500, f"{method} {url} {headers}: {body[:300]!r}"
            if answer.status >= 400 and path.startswith("/api/") and method != "HEAD":
                said = json.loads(body)["error"]
                assert said
                assert len(said) < 600
                assert "Traceback" not in said
    assert {200, 400, 404, 405} <= set(statuses), statuses
    assert house.desk.agents[real].agent.state.value == "running"
