"""The HTTP server of the sidecar."""

from __future__ import annotations

import json

from aiohttp import web

from provisioner.config import Settings
from provisioner.lifecycle.engine import Engine
from provisioner.model.errors import ConfigError
from provisioner.web.health import Health, health, readiness
from provisioner.web.population import population


class WebServer:
    """Serves health, readiness and metrics; they hold no secret and need no token."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen; the address as `host:port`.

        Raises:
            ConfigError: the address cannot be listened at.
        """
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        http = self._settings.http
        site = web.TCPSite(self._runner, http.host, http.port, shutdown_timeout=1.0)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"http.listen: {http.listen} cannot be listened at: {error.strerror}") from error
        host, port = self._runner.addresses[0][:2]
        return f"{host}:{port}"

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


def _answer(found: Health) -> web.Response:
    body = json.dumps({"ok": found.ok, **found.detail}, indent=1)
    return web.Response(text=body + "\n", status=200 if found.ok else 503, content_type="application/json")
