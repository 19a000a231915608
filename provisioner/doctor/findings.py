"""What the doctor says: one finding for each thing that it tried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What was found."""

    OK = "ok"
    WARN = "warn"  # works, with a loss or a risk that is named
    FAIL = "fail"  # agents fail because of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was tried."""

    subject: str  # `controller main`, `provider big-box`, `template maven on big-box`, `this machine`
    check: str  # a word or two
    verdict: Verdict
    text: str  # what was seen
    fix: str = ""  # what to do; empty where nothing is


@dataclass(slots=True)
class Findings:
    """The findings about one subject, in the order of their trying."""

    subject: str
    found: list[Finding]

    def ok(self, check: str, text: str) -> None:
        """It works."""
        self._add(check, Verdict.OK, text, "")

    def warn(self, check: str, text: str, fix: str) -> None:
        """It works, but."""
        self._add(check, Verdict.WARN, text, fix)

    def fail(self, check: str, text: str, fix: str) -> None:
        """It does not."""
        self._add(check, Verdict.FAIL, text, fix)

    def _add(self, check: str, verdict: Verdict, text: str, fix: str) -> None:
        self.found.append(Finding(subject=self.subject, check=check, verdict=verdict, text=text, fix=fix))
