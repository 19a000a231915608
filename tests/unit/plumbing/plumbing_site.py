from __future__ import annotations

import importlib.util
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]


def load(path: str) -> ModuleType:
    """A program of this repository that is no package."""
    name = "loaded_" + Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


class Site:
    """An HTTP server of files that can break off, refuse to continue, and act as a proxy."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.break_after: dict[str, list[int]] = {}  # path -> bytes to send before the connection closes
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []  # path (whole address through a proxy), Range
        self.logins: list[str | None] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self._thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        wanted = to.headers.get("Range")
        self.requests.append((to.path, wanted))
        self.logins.append(to.headers.get("Authorization"))
        path = "/" + to.path.split("://", 1)[-1].split("/", 1)[-1]
        content = self.files.get(path)
        if content is None:
            to.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if begin >= len(content):
            to.send_error(416)
            return
        rest = content[begin:]
        to.send_response(206 if begin else 200)
        to.send_header("Content-Length", str(len(rest)))
        to.end_headers()
        breaks = self.break_after.get(path)
        to.wfile.write(rest[: breaks.pop(0)] if breaks else rest)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
