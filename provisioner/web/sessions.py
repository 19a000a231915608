"""Sessions of the dashboard: a signed cookie; the key lives as long as the process, and so do the sessions."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

SESSION_S = 12 * 3600
#: Each costs a login with the token, so that only somebody who has it could fill this.
_MOST_ENDED = 10_000


class Sessions:
    """Issues and checks cookies. Kept are only the sessions that were ended before their time.

    Args:
        now: a clock, in seconds.
        key: signs the cookies.
        most: how many ended sessions are kept; one more, and every session there is ends.
    """

    def __init__(
        self, now: Callable[[], float] = time.time, key: bytes | None = None, *, most: int = _MOST_ENDED
    ) -> None:
        self._now = now
        self._key = key or secrets.token_bytes(32)
        self._most = most
        self._ended: dict[str, int] = {}  # what was told, until when it would have been valid

    def issue(self) -> str:
        """A new session's cookie."""
        told = f"{int(self._now()) + SESSION_S}.{secrets.token_urlsafe(16)}"
        return f"{told}.{self._sign(told)}"

    def valid(self, cookie: str | None) -> bool:
        """Whether it was issued by this process, has not expired and was not ended."""
        told, _, signature = (cookie or "").rpartition(".")
        if not told or not hmac.compare_digest(self._sign(told).encode(), signature.encode(errors="replace")):
            return False
        return told not in self._ended and _until(told) > self._now()

    def end(self, cookie: str | None) -> None:
        """End a session before its time. Idempotent; a cookie that is not valid is passed over."""
        if cookie is None or not self.valid(cookie):
            return
        told = cookie.rpartition(".")[0]
        self._ended = {other: until for other, until in self._ended.items() if until > self._now()}
        if len(self._ended) >= self._most:
            self._key, self._ended = secrets.token_bytes(32), {}
            return
        self._ended[told] = _until(told)

    def _sign(self, told: str) -> str:
        return hmac.new(self._key, told.encode(errors="replace"), hashlib.sha256).hexdigest()


def _until(told: str) -> int:
    return int(told.partition(".")[0])
