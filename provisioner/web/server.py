"""The HTTP server of the sidecar."""

from __future__ import annotations

import json
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from provisioner.config import Settings
from provisioner.lifecycle.engine import Engine
from provisioner.model.errors import ConfigError
from provisioner.web.answers import add_common_headers, errors_as_answers
from provisioner.web.api import Api
from provisioner.web.dashboard import Dashboard
from provisioner.web.follow import Followers
from provisioner.web.gate import Gate
from provisioner.web.health import Health, health, readiness
from provisioner.web.population import population
from provisioner.web.sessions import Sessions
from provisioner.web.token import read_or_make_token
from provisioner.web.views import View

_MOST_BODY_BYTES = 64 * 1024
#: Of a request's first line: the longest label expression that is taken, with each character as up to 12 in the URL.
_MOST_LINE_BYTES = 64 * 1024


class WebServer:
    """Serves health, readiness and metrics to everybody, API and dashboard to those who have the token."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen; the address as `host:port`.

        Raises:
            ConfigError: the address cannot be listened at, or there is no token to be had.
        """
        gate = Gate(read_or_make_token(self._settings.token_file), self._settings.id, Sessions())
        logging.getLogger("aiohttp.server").addFilter(_is_ours)
        self._runner = web.AppRunner(
            self._application(gate), access_log=None, shutdown_timeout=1.0, max_line_size=_MOST_LINE_BYTES
        )
        await self._runner.setup()
        http = self._settings.http
        site = web.TCPSite(self._runner, http.host, http.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"http.listen: {http.listen} cannot be listened at: {error.strerror}") from error
        host, port = self._runner.addresses[0][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _application(self, gate: Gate) -> web.Application:
        app = web.Application(middlewares=[errors_as_answers, gate.middleware], client_max_size=_MOST_BODY_BYTES)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/login", gate.login)
        app.router.add_post("/logout", gate.logout)
        view = View(self._engine)
        followers = Followers()
        app.add_routes(Api(view, followers).routes())
        app.add_routes(Dashboard(view).routes())
        app.on_response_prepare.append(add_common_headers)
        app.on_shutdown.append(lambda _app: followers.close())
        return app

    async def stop(self) -> None:
        """Close every connection. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _answer(health(self._engine))

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _answer(readiness(self._engine))

    async def _metrics(self, _request: web.Request) -> web.Response:
        text = self._engine.desk.metrics.render(population(self._engine))
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what anybody may send without the token: no HTTP, too long a line, a torn body. It is answered with 400."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


def _answer(found: Health) -> web.Response:
    body = json.dumps({"ok": found.ok, **found.detail}, indent=1)
    return web.Response(text=body + "\n", status=200 if found.ok else 503, content_type="application/json")
