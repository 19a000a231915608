"""What is known of a static node at one moment; all of it is read from the controller, nothing is remembered here.

The one exception is for how long something has been amiss: who has just begun takes no node offline for it.

The labels say what state a node is in, the cleanup job's builds say why anybody may believe it. One line in the
description of such a build, the note, keeps what has to outlive every scheduler: that a success was used up, how
often the node was used since, that a failure has led to a quarantine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

#: Begins the note in a build's description and the cause of a quarantine.
MARK = "[provisioner]"
#: Begins the cause of a node that is lent to another controller; a bar ends what is for people.
LOAN_MARK = "[provisioner loan]"

_NOTE = re.compile(
    rf"^{re.escape(MARK)} (?P<word>clean|spent|quarantined|void)(?:; mark=(?P<mark>\d+))?(?:; uses=(?P<uses>\S+))?; ",
    re.MULTILINE,
)
_LINE = re.compile(rf"^{re.escape(MARK)} (?:clean|spent|quarantined|void);[^\n]*\n?", re.MULTILINE)


class Word(StrEnum):
    """What a note says of its build."""

    CLEAN = "clean"  # it made its node clean
    SPENT = "spent"  # its success counts no more: the node was used, or somebody else ran beside it
    QUARANTINED = "quarantined"  # the failures up to here led to a quarantine; a later one begins to count anew
    VOID = "void"  # it was one too many and says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Our line in the description of a build of the cleanup job."""

    word: Word
    idle_mark_ms: int | None = None  # since when the node had been idle when it was made clean
    uses: tuple[str, ...] = ()  # what has run since, as `BUILD@MARK`
    text: str = ""  # for people

    def __str__(self) -> str:
        mark = f"; mark={self.idle_mark_ms}" if self.idle_mark_ms is not None else ""
        uses = f"; uses={','.join(self.uses)}" if self.uses else ""
        return f"{MARK} {self.word}{mark}{uses}; {' '.join(self.text.split()) or '-'}"


def read_note(description: str | None) -> Note | None:
    """The note in a description; None if there is none."""
    found = _NOTE.search(description or "")
    if found is None:
        return None
    return Note(
        word=Word(found["word"]),
        idle_mark_ms=int(found["mark"]) if found["mark"] else None,
        uses=tuple(found["uses"].split(",")) if found["uses"] else (),
        text=(description or "")[found.end() :].partition("\n")[0].strip(),
    )


def with_note(description: str | None, note: Note) -> str:
    """The description with this note in place of an older one; what others wrote there stays."""
    rest = _LINE.sub("", description or "").strip("\n")
    return f"{rest}\n{note}" if rest else str(note)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaning:
    """One build of the cleanup job for one node."""

    number: int
    url: str
    started_ms: int
    ended_ms: int | None = None  # None: it runs
    result: str | None = None
    built_on: str | None = None  # only where the kind of job tells it; a Pipeline does not
    on_node: bool = False  # it has an executor of the node right now
    description: str | None = None
    overdue_s: float = 0.0  # for how long every look has found that it runs for too long

    @property
    def note(self) -> Note | None:
        """Our line in its description."""
        return read_note(self.description)

    def says(self, word: Word) -> bool:
        """Whether its note is that."""
        note = self.note
        return note is not None and note.word is word


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """An item of the cleanup job that waits for its turn."""

    queue_id: int
    since_ms: int
    buildable: bool = False  # it waits for nothing any more but an executor
    why: str = ""  # what Jenkins says it waits for
    free_s: float | None = None  # for how long every look has found it buildable and its node free; None: it is not


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """Free space below the node's root folder, as the node monitor measured it."""

    free_bytes: int
    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """One node at one moment."""

    name: str
    labels: frozenset[str]  # without its own name
    built_in: bool = False
    connected: bool = True
    held: str | None = None  # taken offline: the reason given, "" for none; None: it was not
    runs: tuple[str, ...] = ()  # URLs of the builds on it that are not its cleaning
    idle_told: bool = False  # whether the controller tells the next one
    idle_since_ms: int | None = None  # when its last build ended; None: not told, or it is busy
    disk: Disk | None = None
    cleanings: tuple[Cleaning, ...] = ()  # newest first
    queued: tuple[Queued, ...] = ()  # oldest first


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the configuration says, in the words of the decision."""

    cleanable: str = "cleanable"
    dirty: str = "dirty"
    clean: str = "clean"
    dirty_timeout_s: float = 3600.0
    at_once: int = 2
    skip: frozenset[str] = frozenset()
    retries: int = 2
    retry_after_s: float = 60.0
    after_builds: int = 1  # 0: builds alone do not soil
    after_age_s: float | None = None
    disk_below: int | None = None
