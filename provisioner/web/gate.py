"""Who may pass: the token as a bearer, or a session of the dashboard."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

import structlog
from aiohttp import web

from provisioner.web.answers import Handler, problem
from provisioner.web.pages import login_page
from provisioner.web.sessions import SESSION_S, Sessions

log = structlog.get_logger()

#: Hold no secret; probes and scrapers have no token.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Wrong tokens are answered one after another, each after this long.
_WRONG_S = 0.5
_MOST_WRONG_AT_ONCE = 20


class Gate:
    """Checks every request.

    Args:
        token: the token.
        owner: our owner id; two sidecars on one host must not share a cookie.
        sessions: of the dashboard.
        sleep: waits; wrong tokens are answered slowly.
    """

    def __init__(
        self,
        token: str,
        owner: str,
        sessions: Sessions,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._token = token.encode()
        self._sessions = sessions
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._wrong = 0
        self.cookie = f"provisioner-{owner}"

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through, or say what is missing."""
        if request.path in OPEN_PATHS or request.path == "/login":
            return await handler(request)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            if scheme.lower() == "bearer" and self._right(given.strip()):
                return await handler(request)
            return _unauthorized(await self._slowly("this is not the token"))
        if not self._sessions.valid(request.cookies.get(self.cookie)):
            if request.method == "GET" and not request.path.startswith("/api/"):
                return _unauthorized(login_page(401))
            return _unauthorized(
                problem(
                    401, "the token is missing; send `Authorization: Bearer TOKEN` with the content of the token file"
                )
            )
        if request.method not in _SAFE_METHODS and not _same_origin(request):
            return problem(403, "this came from another site; use the dashboard itself, or the token")
        return await handler(request)

    async def login(self, request: web.Request) -> web.StreamResponse:
        """`POST /login`: from the token to a session."""
        if not _same_origin(request, or_unknown=True):
            return login_page(403, "This came from another site.")
        if not self._right(_token_of(await request.read())):
            refused = await self._slowly("")
            status = 429 if refused.status == 429 else 403
            log.warning("login.refused", remote=request.remote)
            return login_page(status, "This is not the token.")
        answer = web.Response(status=303, headers={"Location": "/"})
        answer.set_cookie(
            self.cookie,
            self._sessions.issue(),
            max_age=SESSION_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=_secure(request),
        )
        return answer

    async def logout(self, request: web.Request) -> web.StreamResponse:
        """`POST /logout`: end the session, also for who has copied its cookie."""
        self._sessions.end(request.cookies.get(self.cookie))
        answer = web.Response(status=303, headers={"Location": "/login"})
        answer.del_cookie(self.cookie, path="/", httponly=True, samesite="Strict", secure=_secure(request))
        return answer

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token)

    async def _slowly(self, text: str) -> web.Response:
        if self._wrong >= _MOST_WRONG_AT_ONCE:
            return problem(429, "too many wrong tokens at once; wait a little")
        self._wrong += 1
        try:
            async with self._turn:
                await self._sleep(_WRONG_S)
        finally:
            self._wrong -= 1
        return problem(401, text)


def _unauthorized(answer: web.Response) -> web.Response:
    if answer.status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="provisioner"'
    return answer


def _token_of(form: bytes) -> str:
    """The field of the form; nothing that is sent here is worth an error of its own."""
    try:
        fields = parse_qs(form.decode(errors="replace"), max_num_fields=10)
    except ValueError:
        return ""
    return fields.get("token", [""])[0].strip()


def _secure(request: web.Request) -> bool:
    """Whether the browser came by TLS, as far as the proxy in front tells."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def _same_origin(request: web.Request, *, or_unknown: bool = False) -> bool:
    """Whether a browser sent this from our own pages."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin" or (or_unknown and site == "none")
    origin = request.headers.get("Origin")
    if origin is None:
        return or_unknown
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:
        return False
