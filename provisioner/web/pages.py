"""Whole pages: head, style, script and a policy that lets nothing else run."""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path

from aiohttp import web

from provisioner import __version__
from provisioner.web.html import Html, el, join

_STATIC = Path(__file__).parent / "static"


@cache
def _static(name: str) -> Html:
    return Html((_STATIC / name).read_text(encoding="utf-8"))


def page(title: str, body: Html, *, parts: str | None = None, status: int = 200) -> web.Response:
    """One page.

    Args:
        title: for the browser's tab.
        body: what stands in it.
        parts: where the script asks for the parts that change.
        status: the HTTP status.
    """
    nonce = secrets.token_urlsafe(18)
    document = join(
        Html("<!doctype html>\n"),
        el(
            "html",
            el(
                "head",
                el("meta", charset="utf-8"),
                el("meta", name="viewport", content="width=device-width, initial-scale=1"),
                el("title", title),
                el("style", _static("style.css"), nonce=nonce),
                el("noscript", el("meta", http_equiv="refresh", content="5")) if parts else None,
            ),
            el("body", body, el("script", _static("page.js"), nonce=nonce) if parts else None, data_parts=parts),
            lang="en",
        ),
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return web.Response(
        body=document.encode(errors="replace"),
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": policy},
    )


def header(owner: str, *more: Html) -> Html:
    """The line on top of every page."""
    return el(
        "header",
        el("h1", el("a", "Provisioner ", el("span", owner, class_="soft"), href="/")),
        *more,
        el("span", id="note"),
        el("span", class_="grow"),
        el("span", f"version {__version__}", class_="soft"),
        el("form", el("button", "Log out"), method="post", action="/logout", class_="inline"),
    )


def login_page(status: int = 200, wrong: str = "") -> web.Response:
    """What a browser without a session sees."""
    form = el(
        "form",
        el("h1", "Provisioner"),
        el("p", wrong, class_="wrong", role="alert") if wrong else None,
        el("label", "Token", for_="token"),
        el("input", type="password", name="token", id="token", autocomplete="current-password", autofocus=True),
        el("button", "Log in"),
        el("p", "It stands in the file ", el("code", "http.token_file"), " of the configuration.", class_="soft"),
        method="post",
        action="/login",
        class_="login",
    )
    return page("Provisioner: log in", form, status=status)
