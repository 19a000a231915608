"""What all endpoints share: who asks, what Jenkins' answers look like, and the error pages."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from html import escape
from typing import Any

from aiohttp import web

from standin.export import BadTree, View, parse_tree, render
from standin.world import World


class Holder:
    """Where the present world is; a reset puts another one there."""

    def __init__(self, now: World) -> None:
        self.world = now


HOLDER: web.AppKey[Holder] = web.AppKey("holder", Holder)
IDENTITY = base64.b64encode(b"the stand-in's identity " * 12).decode()
CRUMB_FIELD = "Jenkins-Crumb"
OPEN = ("/login", "/tcpSlaveAgentListener/", "/jnlpJars/", "/wsagents/", "/standin/")
ANONYMOUS = "anonymous"
_SESSIONS: web.AppKey[dict[str, str]] = web.AppKey("sessions", dict)  # cookie: crumb


def world(request: web.Request) -> World:
    return request.app[HOLDER].world


def root(request: web.Request) -> str:
    """The address under which the client reached us."""
    return f"{request.scheme}://{request.host}/"


def user(request: web.Request) -> str:
    return str(request.get("user", ANONYMOUS))


def identity_headers(w: World) -> dict[str, str]:
    return {"X-Hudson": "1.395", "X-Jenkins": w.version, "X-Jenkins-Session": w.session}


def session_cookie() -> str:
    return f"JSESSIONID.{secrets.token_hex(4)}=node0{secrets.token_hex(12)}.node0; Path=/; HttpOnly"


def page(
    request: web.Request, status: int, title: str, body: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A page in the controller's own frame: it carries the version headers."""
    text = f"<!DOCTYPE html><html><head><title>{escape(title)} [Jenkins]</title></head><body>{body}</body></html>"
    all_headers = {
        "Content-Type": "text/html;charset=utf-8",
        **identity_headers(world(request)),
        "X-Instance-Identity": IDENTITY,
        "Set-Cookie": session_cookie(),
        **(headers or {}),
    }
    return web.Response(status=status, body=text.encode(), headers=all_headers)


def oops(request: web.Request, status: int, text: str, error: str | None = None) -> web.Response:
    headers = {"X-Error": error} if error else None
    heading = {404: "Not Found", 500: "Oops! A problem occurred while processing the request"}.get(status, "Error")
    return page(request, status, heading, f"<h1>{heading}</h1><p>{escape(text)}</p>", headers)


def not_found(request: web.Request) -> web.Response:
    return oops(request, 404, "This page may not exist, or you may not have permission to see it.")


def refused(request: web.Request, message: str) -> web.Response:
    """400 with `X-Error`, whose typographic quotes no header can carry."""
    plain = "".join(c if ord(c) < 256 else " " for c in message).strip()
    return oops(request, 400, message, plain)


def jetty(request: web.Request, status: int, message: str) -> web.Response:
    """The servlet container's own error page: no version headers."""
    text = (
        f"<html><head><title>Error {status} {escape(message)}</title></head><body><h2>HTTP ERROR {status} "
        f"{escape(message)}</h2><table><tr><th>URI:</th><td>{escape(request.path)}</td></tr>"
        f"<tr><th>STATUS:</th><td>{status}</td></tr><tr><th>MESSAGE:</th><td>{escape(message)}</td></tr></table></body></html>"
    )
    headers = {"Content-Type": "text/html;charset=iso-8859-1"}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Jenkins"'
        headers["Set-Cookie"] = "remember-me=; Path=/; Expires=Thu, 01-Jan-1970 00:00:00 GMT; Max-Age=0"
    return web.Response(status=status, body=text.encode("iso-8859-1", "replace"), headers=headers)


def redirect(request: web.Request, path: str) -> web.Response:
    return web.Response(status=302, headers={"Location": root(request) + path})


def empty(status: int = 200) -> web.Response:
    return web.Response(status=status)


def api_json(request: web.Request, view: View) -> web.Response:
    """The remote API's answer for one object."""
    tree = request.query.get("tree")
    try:
        parsed = parse_tree(tree) if tree else None
        depth = int(request.query.get("depth") or 0)
    except (BadTree, ValueError) as error:
        return oops(request, 500, str(error))
    return raw_json(request, render(view, parsed, depth))


def raw_json(request: web.Request, value: Any) -> web.Response:
    w = world(request)
    headers = {
        "X-Jenkins": w.version,
        "X-Jenkins-Session": w.session,
        "Content-Type": "application/json;charset=utf-8",
    }
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return web.Response(body=body, headers=headers)


def plain(text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=text.encode(), headers={"Content-Type": "text/plain;charset=utf-8", **(headers or {})})


def progressive(request: web.Request, data: bytes | bytearray, *, more: bool) -> web.Response:
    """A piece of a growing log. Past the end Jenkins starts again from the beginning."""
    start = request.query.get("start", "0")
    at = int(start) if start.isdigit() else 0
    if at > len(data):
        at = 0
    text = bytes(data[at:]).replace(b"\n", b"\r\n")
    headers = {"Content-Type": "text/plain;charset=utf-8", "X-Text-Size": str(len(data))}
    if more:
        headers["X-More-Data"] = "true"
    return web.Response(body=text, headers=headers)


# --- who asks ---


def _credentials(request: web.Request) -> tuple[str, str] | None:
    header = request.headers.get("Authorization", "")
    if not header.startswith("Basic "):
        return None
    try:
        name, _, word = base64.b64decode(header[6:]).decode().partition(":")
    except ValueError:
        return "", ""
    return name, word


def crumb(request: web.Request) -> tuple[str, str]:
    """A crumb, and the cookie of the session that it is good for."""
    cookie = session_cookie()
    value = secrets.token_hex(32)
    request.app[_SESSIONS][cookie.split(";")[0].partition("=")[2]] = value
    return value, cookie


def _crumb_fits(request: web.Request) -> bool:
    sessions = request.app[_SESSIONS]
    given = request.headers.get(CRUMB_FIELD)
    return given is not None and any(sessions.get(c) == given for c in request.cookies.values())


@web.middleware
async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
    w = world(request)
    if request.path.startswith("/standin/"):
        return await handler(request)  # type: ignore[no-any-return]
    if w.starting:
        text = "<html><body>Please wait while Jenkins is getting ready to work...</body></html>"
        return web.Response(status=503, text=text, content_type="text/html")
    given = _credentials(request)
    by_token = False
    if given is not None:
        name, word = given
        by_token = w.tokens.get(name) == word
        if not by_token and w.passwords.get(name) != word:
            return jetty(request, 401, "Unauthorized")
        request["user"] = name
    open_path = request.path.startswith(OPEN)
    if request.method == "POST" and not by_token and not _crumb_fits(request):
        return jetty(request, 403, "No valid crumb was included in the request")
    if given is None and not open_path:
        text = (
            f"<html><head><meta http-equiv='refresh' content='1;url=/login?from={escape(request.path)}'/></head>"
            "<body>Authentication required</body></html>"
        )
        headers = {"Content-Type": "text/html;charset=utf-8", "Set-Cookie": session_cookie(), **identity_headers(w)}
        return web.Response(status=403, body=text.encode(), headers=headers)
    return await handler(request)  # type: ignore[no-any-return]


async def _bare(_request: web.Request, response: web.StreamResponse) -> None:
    """An empty answer has no type, and nobody is told what serves here."""
    if isinstance(response, web.Response) and not response.body and "X-Text-Size" not in response.headers:
        response.headers.pop("Content-Type", None)
    response.headers.pop("Server", None)


def prepare(app: web.Application, holder: Holder) -> None:
    app.on_response_prepare.append(_bare)
    app[HOLDER] = holder
    app[_SESSIONS] = {}
