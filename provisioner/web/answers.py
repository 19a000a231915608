"""Answers of the API, and how errors become them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from provisioner.lifecycle.operations import Refused, Unknown
from provisioner.model.errors import ProvisionerError, Reason

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_COMMON_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser hides the origin of our own forms from us
    "Server": "jenkins-provisioner",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class BadRequest(ProvisionerError):  # noqa: N818  (the asker's, not a fault of ours)
    """The question cannot be understood; the message says what would be right."""


def answer(data: Mapping[str, object], status: int = 200) -> web.Response:
    """JSON for a program, and readable for a person."""
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    return web.Response(
        body=text.encode(errors="replace"), status=status, content_type="application/json", charset="utf-8"
    )


def problem(status: int, message: str, reason: Reason | None = None) -> web.Response:
    """An error in one sentence, with its slug where there is one."""
    body: dict[str, object] = {"error": message}
    if reason is not None and reason is not Reason.INTERNAL_ERROR:
        body["reason"] = reason.value
    return answer(body, status)


@web.middleware
async def errors_as_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No handler's error reaches the server as such."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answered = problem(error.status, _words(request, error))
        if "Allow" in error.headers:
            answered.headers["Allow"] = error.headers["Allow"]
        return answered
    except BadRequest as error:
        return problem(400, error.message)
    except Unknown as error:
        return problem(404, error.message)
    except Refused as error:
        return problem(409, error.message)
    except ProvisionerError as error:
        return problem(503 if error.retryable else 500, error.message, error.reason)
    except web.RequestPayloadError:
        return problem(400, "the body is not what its headers say")
    except ConnectionError:
        raise  # the asker went away
    except Exception:
        log.exception("http.fault", method=request.method, path=request.path[:200])
        return problem(500, "internal error; the sidecar's log has it", None)


def _words(request: web.Request, error: web.HTTPException) -> str:
    match error.status:
        case 404:
            return f"there is nothing at {request.path[:200]}; the API is described in docs/http.md"
        case 405:
            return f"{request.method[:20]} does not go with {request.path[:200]}"
        case 413:
            return "the body is too large"
        case _:
            return error.reason or "this cannot be answered"


async def add_common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Nothing is cached, sniffed or framed."""
    response.headers.update(_COMMON_HEADERS)


def flag(request: web.Request, name: str) -> bool:
    """A yes or no of the query; absent is no.

    Raises:
        BadRequest: it is neither.
    """
    text = request.query.get(name)
    if text is None:
        return False
    match text.lower():
        case "" | "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise BadRequest(f"{name} is neither true nor false")


def number(request: web.Request, name: str, default: int, *, most: int = 10**9) -> int:
    """A whole number of the query, from 0.

    Raises:
        BadRequest: it is none, or too large.
    """
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= most):
        raise BadRequest(f"{name} is no whole number from 0 to {most}")
    return int(text)


async def fields(request: web.Request, known: Mapping[str, type]) -> dict[str, object]:
    """The members of a JSON object in the body; none where there is no body.

    Raises:
        BadRequest: it is no JSON object, or has other members.
    """
    data = await request.read()
    if not data.strip():
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is no JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the body is no JSON object")
    if other := sorted(set(body) - set(known)):
        raise BadRequest(f"the body has {other[0][:80]!r}; it may have {', '.join(sorted(known))}")
    return body
