"""The records in SQLite: every intent is here before its act.

WAL with `synchronous=NORMAL`: a commit survives the death of the process at once, and the death of the
machine up to the last checkpoint; what is lost then is found again by the marks outside. Calls are short
and made from the event loop's thread, so that a record is on disk when the call returns.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from provisioner.model.agent import Agent
from provisioner.model.errors import ProvisionerError
from provisioner.model.queue import RequestKey
from provisioner.model.request import Request
from provisioner.records.codec import dump_agent, dump_request, dump_spec, load_agent, load_request

SCHEMA_VERSION = 1
#: How long a write waits for who else has the file open, a backup for one.
_BUSY_S = 5.0
#: What keeps a file that is sound from being opened: locks, rights, memory, the disk. It is no damage.
_SOUND = frozenset(
    {
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    }
)  # fmt: skip
_HOLDER = re.compile(r"[0-9a-f]{12}-[0-9a-f]{12}")

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS agents (
  name TEXT PRIMARY KEY, live INTEGER NOT NULL, changed TEXT NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS agents_live ON agents (live, changed);
CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lines (
  agent TEXT NOT NULL, n INTEGER NOT NULL, at TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (agent, n)) WITHOUT ROWID;
"""


class StoreError(ProvisionerError):
    """The state file cannot be used."""


class Store:
    """The state file of one provisioner; open it in one process only.

    Args:
        path: the SQLite file; made with mode 0600.
        owner: the provisioner's id; a file that belongs to another owner is refused.

    Raises:
        StoreError: another process holds it, it belongs to another owner, or it cannot be made or written there.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        #: where a damaged file was put, if this start found one
        self.set_aside: Path | None = None
        #: records that cannot be read, by name or key, with the reason
        self.unreadable: dict[str, str] = {}
        #: why the last write failed; empty if it did not
        self.problem = ""
        #: of the live agents: what each was made from, and its stored form
        self._specs: dict[str, tuple[Mapping[str, object], str]] = {}
        #: of the transaction under way: what follows if it fails, and what if it does not
        self._undo: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []
        if path.is_dir():  # before anything is left beside it
            raise StoreError(f"the state file {path} cannot be made: it is a folder; name a file in `state`")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"the state file {path} cannot be made: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StoreError(f"the state file {path} is held by another provisioner; stop that one first") from error
        try:
            self.holder = self._read_holder()
            self._db = self._open_or_set_aside(owner)
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            why = getattr(error, "strerror", None) or error
            raise StoreError(f"the state file {path} cannot be opened: {why}") from error
        except BaseException:
            os.close(self._lock)
            raise

    def _read_holder(self) -> str:
        """Which provisioner this is, by a name made at its first start; older ones sort before younger ones.

        It stands in the lock file, so that it survives a damaged or deleted state file.
        """
        found = os.pread(self._lock, 64, 0).decode("ascii", "replace").strip()
        if _HOLDER.fullmatch(found):
            return found
        made = f"{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(6)}"
        with suppress(OSError):  # a full disk: it is another one at the next start
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{made}\n".encode(), 0)
        return made

    def _open_or_set_aside(self, owner: str) -> sqlite3.Connection:
        try:
            return self._connect(owner)
        except sqlite3.DatabaseError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _SOUND:
                raise
            # Damaged: keep it for a person to look at; nodes and instances are found again by their marks.
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
            self.set_aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
            for suffix in ("", "-wal", "-shm"):
                part = Path(f"{self.path}{suffix}")
                if part.exists():
                    part.rename(f"{self.set_aside}{suffix}")
            return self._connect(owner)

    def _connect(self, owner: str) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.path.chmod(0o600)
        db = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_S)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA journal_size_limit=8388608")
            db.executescript(_SCHEMA)
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
            self._claim(db, owner)
        except BaseException:
            db.close()
            raise
        return db

    def _claim(self, db: sqlite3.Connection, owner: str) -> None:
        found = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('owner', 'schema')").fetchall())
        if found.get("owner", owner) != owner:
            raise StoreError(
                f"the state file {self.path} belongs to the provisioner {found['owner']!r}, not to {owner!r}; "
                "give each its own `state`"
            )
        if int(found.get("schema", SCHEMA_VERSION)) > SCHEMA_VERSION:
            raise StoreError(f"the state file {self.path} was written by a newer version of the provisioner")
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("owner", owner), ("schema", str(SCHEMA_VERSION))])

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._lock >= 0:
            self._db.close()
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def together(self) -> Iterator[None]:
        """One transaction for several saves: all of them are on disk, or none."""
        if self._db.in_transaction:  # a part of one that is under way
            yield
            return
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended it already
                self._db.execute("ROLLBACK")
            undo, self._undo, self._after = self._undo, [], []
            for take_back in reversed(undo):
                take_back()
            raise
        after, self._undo, self._after = self._after, [], []
        for follow in after:
            follow()

    def if_undone(self, take_back: Callable[[], None]) -> None:
        """Something was changed in memory as well: put it back if the transaction under way fails."""
        if self._db.in_transaction:
            self._undo.append(take_back)

    def once_written(self, follow: Callable[[], None]) -> None:
        """What must not happen before it is on disk, nor once for each try: at the end of the transaction, or now."""
        if self._db.in_transaction:
            self._after.append(follow)
        else:
            follow()

    def _run(self, sql: str, values: Sequence[object] = (), *, rows: Sequence[Sequence[object]] | None = None) -> int:
        """Write, or say in one sentence what keeps us from it; it works again as soon as the file does.

        Returns:
            How many rows it changed.
        """
        try:
            done = self._db.execute(sql, values) if rows is None else self._db.executemany(sql, rows)
        except sqlite3.Error as error:
            self.problem = f"the state file {self.path} cannot be written: {error}"
            raise StoreError(self.problem, retryable=True) from error
        self.problem = ""
        return done.rowcount

    def meta(self, key: str) -> str | None:
        """A small value by name."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep a small value."""
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def save_agent(self, agent: Agent, at: datetime) -> None:
        """Insert or replace one agent's record. Of a live one `changed` stays when it was first saved."""
        record = self._dumped(agent)
        # most saves change nothing that is in an index: to replace the row would cost four times as much
        update = "UPDATE agents SET record = ? WHERE name = ? AND live = 1"
        if not (agent.live and self._run(update, (record, agent.name))):
            values = (agent.name, int(agent.live), at.isoformat(), record)
            self._run("INSERT OR REPLACE INTO agents VALUES (?, ?, ?, ?)", values)

    def _dumped(self, agent: Agent) -> str:
        """Its stored form; what it was made from never changes, and is the most of it."""
        spec, text = self._specs.get(agent.name, (None, ""))
        if spec is not agent.spec:
            text = dump_spec(agent.spec)
        if agent.live:
            self._specs[agent.name] = (agent.spec, text)
        else:
            self._specs.pop(agent.name, None)
        return dump_agent(agent, text)

    def live_agents(self) -> list[Agent]:
        """Every agent of which something may exist."""
        query = "SELECT name, record FROM agents WHERE live = 1 ORDER BY changed"
        return self._readable(self._db.execute(query), load_agent)

    def agent(self, name: str) -> Agent | None:
        """One agent, live or gone; None also where its record cannot be read."""
        found = self._readable(self._db.execute("SELECT name, record FROM agents WHERE name = ?", (name,)), load_agent)
        return found[0] if found else None

    def gone_agents(self, limit: int = 200) -> list[Agent]:
        """The latest agents that are gone, newest first, as far as they can be read."""
        query = "SELECT name, record FROM agents WHERE live = 0 ORDER BY changed DESC LIMIT ?"
        return self._readable(self._db.execute(query, (limit,)), load_agent)

    def save_request(self, request: Request) -> None:
        """Insert or replace one request's record."""
        self._run("INSERT OR REPLACE INTO requests VALUES (?, ?)", (str(request.item.key), dump_request(request)))

    def forget_request(self, key: RequestKey) -> None:
        """Drop the record of a request that left the queue. Idempotent."""
        self._run("DELETE FROM requests WHERE key = ?", (str(key),))

    def requests(self) -> list[Request]:
        """Every request that has not left the queue, as far as is known."""
        return self._readable(self._db.execute("SELECT key, record FROM requests"), load_request)

    def _readable(self, rows: Iterable[tuple[str, str]], load: Callable[[str], T]) -> list[T]:
        """A record that cannot be read is left where it is: what it stood for is found again by its marks."""
        found = []
        for key, text in rows:
            try:
                found.append(load(text))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self.unreadable[key] = repr(error)
        return found

    def add_lines(self, agent: str, first: int, lines: Sequence[str], at: datetime) -> None:
        """Append to an agent's launch log; `first` is the number of the first line, from 0."""
        rows = [(agent, first + i, at.isoformat(), text) for i, text in enumerate(lines)]
        self._run("INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?)", rows=rows)

    def lines(self, agent: str, since: int = 0) -> list[tuple[int, str, str]]:
        """An agent's launch log from line `since`: (number, time, text)."""
        query = "SELECT n, at, text FROM lines WHERE agent = ? AND n >= ? ORDER BY n"
        return [(int(n), str(at), str(text)) for n, at, text in self._db.execute(query, (agent, since))]

    def prune(self, now: datetime, keep: timedelta, at_most: int = 5000) -> int:
        """Forget agents that have been gone for longer than `keep`, and the oldest beyond `at_most`; how many."""
        with self.together():
            doomed = [
                r[0]
                for r in self._db.execute(
                    "SELECT name FROM agents WHERE live = 0 AND (changed < ? OR name NOT IN "
                    "(SELECT name FROM agents WHERE live = 0 ORDER BY changed DESC LIMIT ?))",
                    ((now - keep).isoformat(), at_most),
                )
            ]
            self._run("DELETE FROM lines WHERE agent = ?", rows=[(name,) for name in doomed])
            self._run("DELETE FROM agents WHERE name = ?", rows=[(name,) for name in doomed])
        return len(doomed)
