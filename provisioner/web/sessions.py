"""Sessions of the dashboard: a signed cookie; the key lives as long as the process, and so do the sessions."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

SESSION_S = 12 * 3600


class Sessions:
    """Issues and checks cookies. Nothing is kept for each session."""

    def __init__(self, now: Callable[[], float] = time.time, key: bytes | None = None) -> None:
        self._now = now
        self._key = key or secrets.token_bytes(32)

    def issue(self) -> str:
        """A new session's cookie."""
        told = f"{int(self._now()) + SESSION_S}.{secrets.token_urlsafe(16)}"
        return f"{told}.{self._sign(told)}"

    def valid(self, cookie: str | None) -> bool:
        """Whether it was issued by this process and has not expired."""
        told, _, signature = (cookie or "").rpartition(".")
        if not told or not hmac.compare_digest(self._sign(told).encode(), signature.encode(errors="replace")):
            return False
        return int(told.partition(".")[0]) > self._now()

    def _sign(self, told: str) -> str:
        return hmac.new(self._key, told.encode(errors="replace"), hashlib.sha256).hexdigest()
