"""Who gets in, and who does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import CapturingLogger

from provisioner.model.errors import ConfigError
from provisioner.web.gate import Gate
from provisioner.web.sessions import SESSION_S, Sessions
from provisioner.web.token import read_or_make_token
from tests.unit.web.conftest import Served, running

GUARDED = [
    ("GET", "/api/v1/agents"),
    ("GET", "/api/v1/agents/x/log?follow=1"),
    ("POST", "/api/v1/agents/x/hold"),
    ("DELETE", "/api/v1/agents/x?now=true"),
    ("GET", "/api/v1/requests"),
    ("GET", "/api/v1/explain?label=x"),
    ("GET", "/api/v1/providers"),
    ("POST", "/api/v1/providers/box/drain"),
    ("GET", "/api/v1/templates"),
    ("DELETE", "/api/v1/orphans"),
    ("GET", "/"),
    ("GET", "/parts"),
    ("GET", "/agents/x"),
    ("POST", "/logout"),
    ("GET", "/nothing/here"),
    ("GET", "/healthz/"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_without_the_token_nothing_is_told(served: Served, method: str, path: str) -> None:
    async with served.bare.request(method, path, allow_redirects=False) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "maven" not in await answer.text()
    assert not served.house.desk.providers["box"].drained


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_need_no_token(served: Served, path: str) -> None:
    await served.house.until(lambda: served.house.desk.controllers["main"].seen and served.house.desk.ticks)
    async with served.bare.get(path) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("sent", ["Bearer wrong", "Bearer", "Basic eDp5", "bearer  ", "Bearer \xe9"])
async def test_a_wrong_token_is_refused_slowly(served: Served, sent: str) -> None:
    async with served.bare.get("/api/v1/agents", headers={"Authorization": sent}) as answer:
        assert answer.status == 401
        assert (await answer.json())["error"] == "this is not the token"


async def login(served: Served, token: str, **headers: str) -> int:
    async with served.bare.post("/login", data={"token": token}, headers=headers, allow_redirects=False) as answer:
        return answer.status


async def test_a_browser_logs_in_and_out(served: Served) -> None:
    assert await login(served, "wrong") == 403
    async with served.bare.post("/login", data={"token": f" {served.token}\n"}, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        cookie = answer.headers["Set-Cookie"]
        assert served.token not in cookie
        for word in ("provisioner-test=", "HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION_S}"):
            assert word in cookie
        assert "Secure" not in cookie
    async with served.bare.get("/") as answer:
        assert answer.status == 200
    async with served.bare.get("/api/v1/agents") as answer:
        assert answer.status == 200
    origin = {"Origin": served.url}
    async with served.bare.post("/logout", headers=origin, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/login")
    async with served.bare.get("/api/v1/agents") as answer:
        assert answer.status == 401


async def test_a_cookie_is_worth_nothing_after_its_browser_logged_out(served: Served) -> None:
    async def enter() -> dict[str, str]:
        async with (
            aiohttp.ClientSession(served.url, cookie_jar=aiohttp.DummyCookieJar()) as browser,
            browser.post("/login", data={"token": served.token}, allow_redirects=False) as answer,
        ):
            return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}

    async def seen(cookie: dict[str, str]) -> int:
        async with aiohttp.ClientSession(served.url, headers=cookie) as browser, browser.get("/") as answer:
            return answer.status

    mine, other = await enter(), await enter()
    assert await seen(mine) == 200
    async with (
        aiohttp.ClientSession(served.url, headers={**mine, "Origin": served.url}) as browser,
        browser.post("/logout", allow_redirects=False) as answer,
    ):
        assert answer.status == 303
    assert await seen(mine) == 401
    assert await seen(other) == 200


async def test_behind_tls_the_cookie_stays_there(served: Served) -> None:
    async with served.bare.post(
        "/login", data={"token": served.token}, headers={"X-Forwarded-Proto": "https"}, allow_redirects=False
    ) as answer:
        assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[bad"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "OURS"}, 200),
    ],
)
async def test_another_site_cannot_use_a_session(served: Served, headers: dict[str, str], status: int) -> None:
    assert await login(served, served.token) == 303
    sent = {name: served.url if value == "OURS" else value for name, value in headers.items()}
    async with served.bare.post("/api/v1/providers/box/drain", headers=sent) as answer:
        assert answer.status == status
    assert served.house.desk.providers["box"].drained is (status == 200)


async def test_another_site_cannot_log_a_browser_in(served: Served) -> None:
    assert await login(served, served.token, Origin="http://evil.example") == 403


async def test_a_session_needs_its_signature_and_ends(served: Served) -> None:
    now = [1000.0]
    sessions = Sessions(lambda: now[0])
    cookie = sessions.issue()
    assert sessions.valid(cookie)
    assert not Sessions(lambda: now[0]).valid(cookie)  # another process, another key
    expiry, _, rest = cookie.partition(".")
    for forged in (f"{int(expiry) + 9}.{rest}", cookie[:-1], cookie + "0", "", "..", "\udcff.x", None):
        assert not sessions.valid(forged)
    now[0] += SESSION_S
    assert not sessions.valid(cookie)


def test_sessions_that_ended_are_kept_until_they_would_have_ended_and_only_so_many() -> None:
    now = [1000.0]
    sessions = Sessions(lambda: now[0], most=3)
    first, *others = [sessions.issue() for _ in range(4)]
    for cookie in (first, first, "forged", None):
        sessions.end(cookie)
    assert not sessions.valid(first)
    assert all(sessions.valid(cookie) for cookie in others)
    now[0] += SESSION_S
    later = [sessions.issue() for _ in range(3)]
    for cookie in later[:2]:
        sessions.end(cookie)  # the first one has run out meanwhile, and takes no place
    assert [sessions.valid(cookie) for cookie in later] == [False, False, True]
    for cookie in [sessions.issue() for _ in range(2)]:
        sessions.end(cookie)
    assert not sessions.valid(later[2])  # too many: nobody who logged out comes back in, all log in again
    assert sessions.valid(sessions.issue())


async def test_wrong_tokens_wait_for_one_another_and_only_so_many() -> None:
    slept: list[float] = []
    let_go = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await let_go.wait()

    gate = Gate("right", "test", Sessions(), sleep)

    async def reached(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="in")

    async def knock(token: str) -> web.StreamResponse:
        request = make_mocked_request("GET", "/api/v1/agents", headers={"Authorization": f"Bearer {token}"})
        return await gate.middleware(request, reached)

    wrong = [asyncio.create_task(knock("wrong")) for _ in range(30)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(slept) == 1
    assert sum(task.done() for task in wrong) == 10
    assert (await knock("right")).status == 200
    let_go.set()
    statuses = sorted(answer.status for answer in await asyncio.gather(*wrong))
    assert statuses == [401] * 20 + [429] * 10
    assert len(slept) == 20


def test_the_token_is_made_once_for_its_own_user_only(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "token"
    token = read_or_make_token(file)
    assert len(token) >= 43
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_or_make_token(file) == token
    assert [p.name for p in file.parent.iterdir()] == ["token"]


@pytest.mark.parametrize("content", [b"", b" \n", b"two words\n", "schlüssel".encode(), b"\x00\x01"])
def test_a_file_without_a_token_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"http\.token_file: .*token holds no token"):
        read_or_make_token(file)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"http\.token_file: .* cannot be used"):
        read_or_make_token(tmp_path / "file" / "token")


async def test_every_answer_is_fenced(served: Served) -> None:
    await running(served)
    for path in ("/", "/api/v1/agents", "/api/v1/nothing", "/metrics"):
        async with served.bare.get(path, headers=served.bearer) as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert "aiohttp" not in answer.headers["Server"]


async def test_a_client_that_is_no_browser_needs_no_origin(served: Served) -> None:
    path = f"{served.url}/api/v1/providers/box/drain"
    async with aiohttp.ClientSession() as other, other.post(path, headers=served.bearer) as answer:
        assert answer.status == 200


async def test_nothing_that_a_stranger_sends_wrong_fills_the_log(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = CapturingLogger()
    monkeypatch.setattr("provisioner.web.answers.log", ours)
    host, _, port = served.address.rpartition(":")
    wrong = [
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nno header\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n",
        b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ]
    for sent in wrong:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        first = await reader.readline()
        assert first.split()[1] == b"400", sent[:40]
        writer.close()
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []
    assert ours.calls == []
