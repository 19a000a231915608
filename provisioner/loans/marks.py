"""The marks of a loan: all that has to outlive every command and sidecar, kept in the controllers themselves.

At the lender it is the cause for which the node is offline, at the borrower the description of the node that stands
for it. Either is readable for people up to the bar, for us behind it.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import parse_qsl, urlencode

from provisioner.cleanup.facts import LOAN_MARK

#: Begins both marks. Not the scheduler's own mark, whose nodes are in quarantine.
MARK = LOAN_MARK
_BAR = " | "
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_RANDOM = 13  # of 32 letters each: 65 bits
_MOST = 200
_NAME = re.compile(rf"loan-[A-Za-z0-9._-]{{1,40}}-[{_ALPHABET}]{{{_RANDOM}}}")


class Word(StrEnum):
    """How far a loan is, by the lender's mark."""

    LENDING = "lending"  # out of service at the lender; the borrower does not have it yet
    LENT = "lent"  # registered at the borrower, and its agent was connected there
    RETURNING = "returning"  # over; the borrower's builds end, then its agent
    STOPPED = "stopped"  # the borrower's agent is ended and its files are gone


@dataclass(frozen=True, kw_only=True, slots=True)
class LoanMark:
    """What the lender's node says of its loan."""

    name: str  # of the borrower's node, never used twice
    owner: str
    to: str
    until_s: int
    word: Word
    labels: tuple[str, ...]
    root: str  # folder for borrowers' agents on the machine
    executors: int = 1
    by: str = ""
    why: str = ""
    ended: str = ""  # why it is over
    since_s: int = 0  # since when it is over
    now: bool = False  # the borrower's builds are not waited for
    absent_s: int | None = None  # since when the borrower has not answered

    def __str__(self) -> str:
        said = f"lent to {self.to} until {told_time(self.until_s)}"
        said += f" by {self.by}" if self.by else ""
        said += f" ({self.why})" if self.why else ""
        if self.word in {Word.RETURNING, Word.STOPPED}:
            said = f"on its way back from {self.to} since {told_time(self.since_s)}: {self.ended}"
        fields = {
            "name": self.name,
            "owner": self.owner,
            "to": self.to,
            "until": str(self.until_s),
            "state": self.word.value,
            "labels": " ".join(self.labels),
            "root": self.root,
            "executors": str(self.executors),
            "by": self.by,
            "why": self.why,
            "ended": self.ended,
            "since": str(self.since_s or ""),
            "now": "1" if self.now else "",
            "absent": "" if self.absent_s is None else str(self.absent_s),
        }
        return f"{MARK} {_line(said)}{_BAR}{urlencode({k: v for k, v in fields.items() if v})}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestMark:
    """What the borrower's node says of where it comes from."""

    name: str
    owner: str
    lender: str
    node: str
    root: str
    until_s: int

    def __str__(self) -> str:
        said = f"{self.node} of {self.lender}, lent until {told_time(self.until_s)}"
        fields = {
            "name": self.name,
            "owner": self.owner,
            "from": self.lender,
            "node": self.node,
            "root": self.root,
            "until": str(self.until_s),
        }
        return f"{MARK} {_line(said)}{_BAR}{urlencode(fields)}"


def new_name(node: str) -> str:
    """A name for the borrower's node: an agent's secret depends on the name, so none is ever used again."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in node)[:40].strip("-.")
    return f"loan-{plain or 'node'}-{''.join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))}"


def read_loan(cause: str | None) -> LoanMark | None:
    """The mark in a node's offline cause; None if it has none that can be read."""
    found = _fields(cause)
    try:
        return LoanMark(
            name=_checked(found["name"]),
            owner=found["owner"],
            to=found["to"],
            until_s=int(found["until"]),
            word=Word(found["state"]),
            labels=tuple(found.get("labels", "").split()),
            root=found["root"],
            executors=int(found.get("executors", "1")),
            by=found.get("by", ""),
            why=found.get("why", ""),
            ended=found.get("ended", ""),
            since_s=int(found.get("since", "0")),
            now=found.get("now") == "1",
            absent_s=int(found["absent"]) if "absent" in found else None,
        )
    except (KeyError, ValueError):
        return None


def read_guest(description: str | None) -> GuestMark | None:
    """The mark in a node's description; None if it has none that can be read."""
    found = _fields(description)
    try:
        return GuestMark(
            name=_checked(found["name"]),
            owner=found["owner"],
            lender=found["from"],
            node=found["node"],
            root=found["root"],
            until_s=int(found["until"]),
        )
    except (KeyError, ValueError):
        return None


def told_time(at_s: int) -> str:
    """A point in time for people."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def words(text: str) -> str:
    """A text by a person as it may stand in a mark."""
    return _line(text)[:_MOST]


def _checked(name: str) -> str:
    # it becomes a folder that is removed with all that is in it
    if not _NAME.fullmatch(name):
        raise ValueError(name)
    return name


def _fields(text: str | None) -> dict[str, str]:
    if text is None or not text.startswith(MARK):
        return {}
    return dict(parse_qsl(text.rpartition(_BAR)[2]))


def _line(text: str) -> str:
    # Jenkins takes everything up to the last blank, colon, blank for its own beginning of a cause
    return " ".join(text.replace(" : ", ", ").replace("|", "/").split())
