"""A scripted controller on loopback, and a client of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from provisioner.controller.rest import Rest
from tests.unit.controller.scripted_controller import Asked, Script


@pytest.fixture
def controller() -> Iterator[Script]:
    """The scripted server."""
    script = Script()
    script.on("GET", "/crumbIssuer/api/json", 404)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            asked = Asked(
                method=self.command,
                path=unquote(parts.path),
                query={k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()},
                headers=dict(self.headers.items()),
                body=self.rfile.read(length),
            )
            status, headers, body = script.answer(asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client that gave up
                self.wfile.write(body)

        do_GET = do_POST = _serve  # noqa: N815  (the names that http.server asks for)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def rest(controller: Script) -> Iterator[Rest]:
    """A client of the scripted server."""
    client = Rest(name="main", url=controller.url, user="ci", token="s3cret-token", timeout_s=15.0)
    yield client
    client.close()
