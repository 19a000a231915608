"""An image registry with one tiny image, which can be slow, closed, or broken at will."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """`host` is its address; its image is `HOST/tiny:1`."""

    def __init__(self) -> None:
        self.login: tuple[str, str] | None = None  # needed for every request
        self.broken = False  # answers 503
        self.blob_may_go = threading.Event()  # the layer's second half waits for it
        self.blob_may_go.set()
        self.layers_served = 0
        self.ending = threading.Event()
        self._make_image()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                pass

            def do_GET(self) -> None:
                registry.answer(self)

            do_HEAD = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.image = f"{self.host}/tiny:1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _make_image(self) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            content = uuid.uuid4().bytes * (64 * 1024)  # never in the engine's store already
            entry = tarfile.TarInfo("file")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        layer = gzip.compress(packed.getvalue(), compresslevel=0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [_digest(packed.getvalue())]},
            }
        ).encode()
        self._layer = _digest(layer)
        self._blobs = {self._layer: layer, _digest(config): config}
        self._manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(config),
                    "digest": _digest(config),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "size": len(layer),
                        "digest": self._layer,
                    }
                ],
            }
        ).encode()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        if self.broken:
            return self._send(request, 503, b"down for repairs")
        if self.login and request.headers.get("Authorization") != _basic(*self.login):
            error = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()
            return self._send(request, 401, error, {"WWW-Authenticate": 'Basic realm="test"'})
        if path in ("/v2/", "/v2"):
            return self._send(request, 200, b"{}")
        if path.startswith("/v2/tiny/manifests/") and path.rpartition("/")[2] in ("1", _digest(self._manifest)):
            extra = {"Content-Type": _MANIFEST, "Docker-Content-Digest": _digest(self._manifest)}
            return self._send(request, 200, self._manifest, extra)
        if path.startswith("/v2/tiny/blobs/") and (blob := self._blobs.get(path.rpartition("/")[2])):
            return self._send_blob(request, blob)
        error = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).encode()
        return self._send(request, 404, error, {"Content-Type": "application/json"})

    def _send_blob(self, request: BaseHTTPRequestHandler, blob: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(blob)))
        request.end_headers()
        half = len(blob) // 2
        try:
            request.wfile.write(blob[:half])
            request.wfile.flush()
            while not self.blob_may_go.wait(0.02) and not self.ending.is_set():
                pass
            request.wfile.write(blob[half:])
        except OSError:
            request.close_connection = True  # the pull was given up
            return
        self.layers_served += blob is self._blobs[self._layer]

    def _send(
        self, request: BaseHTTPRequestHandler, code: int, body: bytes, extra: dict[str, str] | None = None
    ) -> None:
        request.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(extra or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def close(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
