"""A scripted HTTP server on loopback that answers as the recordings of a real controller do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

RECORDINGS = Path(__file__).parents[2] / "recordings"
JENKINS = {"X-Jenkins": "2.460", "X-Jenkins-Session": "aaaa1111"}
Answering = Callable[["Asked"], tuple[int, Mapping[str, str], bytes]]


@dataclass(frozen=True)
class Asked:
    """One request that arrived."""

    method: str
    path: str  # decoded, without the query
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return {k: v[0] for k, v in parse_qs(self.body.decode()).items()}


@dataclass
class Script:
    """What to answer, by method and path; several answers for one place come in order, the last one stays."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[tuple[str, str], list[Answering]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on(
        self, method: str, path: str, status: int = 200, body: object = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        told = dict(JENKINS if headers is None else headers)
        if isinstance(body, bytes):
            content = body
        else:
            content = json.dumps(body).encode()
            told.setdefault("Content-Type", "application/json;charset=utf-8")
        self.call(method, path, lambda _asked: (status, told, content))

    def call(self, method: str, path: str, answering: Answering) -> None:
        self.answers.setdefault((method, path), []).append(answering)

    def replay(self, file: str, title: str, *, path: str | None = None) -> None:
        """Answer as the recorded exchange did."""
        exchange = recorded(file, title)
        self.on(
            exchange["method"],
            path or unquote(urlsplit(exchange["path"]).path),
            exchange["status"],
            exchange["body"].encode(),
            {k: v for k, v in exchange["headers"].items() if k not in ("Content-Length", "Set-Cookie")},
        )

    def paths(self, method: str | None = None) -> list[str]:
        return [a.path for a in self.asked if method in (None, a.method)]

    def answer(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        with self.lock:
            self.asked.append(asked)
            queue = self.answers.get((asked.method, asked.path))
            if not queue:
                return 404, JENKINS, b"<html>Not Found</html>"
            answering = queue.pop(0) if len(queue) > 1 else queue[0]
        return answering(asked)


def recorded(file: str, title: str) -> dict[str, Any]:
    exchanges = json.loads((RECORDINGS / file).read_text())
    found: dict[str, Any] = next(e for e in exchanges if e["title"] == title)
    return found
