"""Between a scheduler and its controller: kills the scheduler right before or right after a step of a chosen kind."""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_ASK = re.compile(r"String\('([^']+)'\.decodeBase64")
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


def step_of(method: str, path: str, body: bytes) -> str:
    """What a request of the scheduler does to the controller; empty: nothing."""
    if method != "POST":
        return ""
    where = urlsplit(path).path
    if where.endswith("/scriptText"):
        script = parse_qs(body.decode())["script"][0]
        found = _ASK.search(script)
        ask = json.loads(base64.b64decode(found[1])) if found else {}
        if "marks" in ask:
            return "watch"
        if "job" in ask and "from" in ask:
            return "describe"
        if "to" in ask:
            return _labels(ask["to"]) if ask["to"] != ask["from"] else ""
        return "hold" if "setTemporarilyOffline(true" in script else ""
    if where.endswith("/config.xml"):
        found = re.search("<label>(.*)</label>", body.decode())
        return _labels(found[1]) if found else ""
    names = {"buildWithParameters": "start", "submitDescription": "describe", "toggleOffline": "hold", "stop": "stop"}
    return names.get(where.rsplit("/", 1)[1], "")


def _labels(text: str) -> str:
    return "dirty" if "dirty" in text.split() else "clean"


class CuttingProxy:
    """Every request of one scheduler, on its way to the controller at `target`."""

    def __init__(self, target: str) -> None:
        self._to = urlsplit(target)
        self._lock = threading.Lock()
        self._armed: tuple[str, str, Callable[[], None]] | None = None
        self.cut = threading.Event()
        self.looked = threading.Event()  # the scheduler is up: it has asked for something
        self.seen: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.pass_on(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def arm(self, step: str, side: str, kill: Callable[[], None]) -> None:
        """At the next step of this kind call `kill`, `before` it reaches the controller or `after` it has."""
        with self._lock:
            self._armed = (step, side, kill)
            self.cut.clear()
            self.looked.clear()

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        step = step_of(handler.command, handler.path, body)
        armed = None
        self.looked.set()
        with self._lock:
            if step:
                self.seen.append(step)
            if self._armed is not None and self._armed[0] == step:
                armed, self._armed = self._armed, None
        if armed is not None and armed[1] == "before":
            self._end(armed[2], handler)
            return
        connection = http.client.HTTPConnection(self._to.hostname or "", self._to.port, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in {"host", "connection"}}
        try:
            connection.request(handler.command, handler.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if armed is not None:
            self._end(armed[2], handler)
            return
        try:
            handler.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in _HOP:
                    handler.send_header(key, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            handler.close_connection = True  # it was killed by the test

    def _end(self, kill: Callable[[], None], handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        kill()
        self.cut.set()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
