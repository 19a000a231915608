"""An engine's socket that answers what a test tells it to: for what a real engine does only on a bad day."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

#: Code and JSON, or bytes as they are; None: no answer until the test is over.
Answer = tuple[int, object] | None


class FakeEngine:
    """Answers by method and path (without the version); what is not told is a 404."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine.sock"
        self.endpoint = f"unix://{self.path}"
        self.answers: dict[tuple[str, str], Callable[[], Answer]] = {}
        self.requests: list[tuple[str, str]] = []
        self.asked: list[str] = []  # the same with the query
        self.over = threading.Event()
        self.give("GET", "/version", 200, {"ApiVersion": "1.41", "Version": "20.10", "Os": "linux", "Arch": "amd64"})
        self.give("GET", "/images/tiny:1/json", 200, {"Id": "sha256:1", "Config": {"User": ""}})
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                pass

            def address_string(self) -> str:
                return "socket"

            def do_GET(self) -> None:
                engine.serve(self)

            do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def give(self, method: str, path: str, code: int, body: object = None) -> None:
        self.answers[method, path] = lambda: (code, body)

    def call(self, method: str, path: str, answer: Callable[[], Answer]) -> None:
        self.answers[method, path] = answer

    def hang(self, method: str, path: str) -> None:
        self.answers[method, path] = lambda: None

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?", maxsplit=1)[0]
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append((request.command, path))
        self.asked.append(request.path)
        answer = self.answers.get((request.command, path), lambda: (404, {"message": "No such thing"}))()
        if answer is None:
            self.over.wait(60)
            request.close_connection = True
            return
        code, body = answer
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        try:
            request.send_response(code)
            if code != 204:
                request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            if request.command != "HEAD" and code != 204:
                request.wfile.write(content)
        except OSError:
            request.close_connection = True  # the client lost its patience

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
