"""What came of it: consoles, the phases of every agent, results, and what is left behind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo.jobs import Job
from demo.screen import Cell, Screen, Style
from demo.sidecar import PHASES, Story

_OURS = "[provisioner] "
_RESULTS = {"SUCCESS": Style.GOOD, "NOT_BUILT": Style.ODD}
_FINISHED = re.compile(r"Finished: (\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One build as it ended."""

    job: Job
    result: str  # or what kept it from ending
    console: str
    agents: Sequence[str]  # that ran something of it

    @property
    def lines(self) -> int:
        """How many lines of the launch log its console has."""
        return sum(_OURS in line for line in self.console.splitlines())

    def problems(self) -> list[str]:
        """What is not as it should be."""
        name = f"{self.job.name} #1"
        found = []
        if self.result != self.job.result:
            found.append(f"{name} ended {self.result} instead of {self.job.result}")
        if len(self.agents) != self.job.agents:
            found.append(f"{name} ran on {len(self.agents)} agents instead of {self.job.agents}")
        ours = [line for line in self.console.splitlines() if _OURS in line]
        if not ours:
            found.append(f"{name} has no launch log in its console")
        found += [
            f"{name} has no launch log of {agent} in its console"
            for agent in self.agents
            if not any(agent in line for line in ours)
        ]
        found += [f"{name} has no {text!r} in its console" for text in self.job.console if text not in self.console]
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """One kind of thing, and what is left of it."""

    kind: str
    where: str  # it was looked for
    things: Sequence[str] | None = ()  # None: nobody looked

    @property
    def problem(self) -> str | None:
        """In words, if something is left."""
        return f"{self.kind} left behind: {', '.join(self.things)}" if self.things else None


def print_console(screen: Screen, outcome: Outcome) -> None:
    """One build's console, the provisioner's lines standing out."""
    screen.heading(f"{outcome.job.name} #1: {outcome.result}", _RESULTS.get(outcome.result, Style.BAD))
    for line in outcome.console.rstrip().splitlines():
        finished = _FINISHED.fullmatch(line)
        if finished:
            screen.line(line, _RESULTS.get(finished[1], Style.BAD))
        elif "[provisioner] Launch failed" in line:
            screen.line(line, Style.BAD)
        else:
            screen.line(line, Style.OURS if _OURS in line else Style.PLAIN)


def print_phases(screen: Screen, stories: Mapping[str, Story]) -> None:
    """How long each agent was in each phase."""
    screen.heading("Agents: seconds in each phase")
    rows = []
    for story in stories.values():
        row: list[Cell] = [(story.name, Style.PLAIN), (story.job, Style.PLAIN)]
        for _, begin, ends in PHASES:
            took_s = story.phase_s(begin, ends)
            row.append(("-", Style.DIM) if took_s is None else (f"{took_s:.2f}", Style.PLAIN))
        rows.append(row)
    screen.table(["agent", "build", *(phase for phase, _, _ in PHASES)], rows, right=2)
    for story in stories.values():
        if story.reason:
            screen.line(f"  {story.name} never came up: {story.reason}", Style.ODD)


def print_outcomes(screen: Screen, outcomes: Sequence[Outcome]) -> None:
    """Each build beside what it should be."""
    screen.heading("Builds")
    rows: list[list[Cell]] = []
    for outcome in outcomes:
        problems = outcome.problems()
        rows.append(
            [
                (f"{outcome.job.name} #1", Style.PLAIN),
                (outcome.job.result, Style.PLAIN),
                (outcome.result, _RESULTS.get(outcome.result, Style.BAD)),
                (str(len(outcome.agents)), Style.PLAIN),
                (str(outcome.lines), Style.PLAIN),
                (screen.bad, Style.BAD) if problems else (screen.good, Style.GOOD),
            ]
        )
    screen.table(["build", "expected", "result", "agents", "launch log lines", ""], rows)


def print_left(screen: Screen, left: Sequence[Left]) -> None:
    """The closing table."""
    screen.heading("Left behind")
    rows: list[list[Cell]] = []
    for one in left:
        if one.things is None:
            rows.append([(one.kind, Style.PLAIN), ("-", Style.DIM), (one.where, Style.DIM), ("", Style.PLAIN)])
            continue
        found = "; ".join(one.things) or "none"
        sign = (screen.bad, Style.BAD) if one.things else (screen.good, Style.GOOD)
        rows.append(
            [(one.kind, Style.PLAIN), (found, Style.BAD if one.things else Style.PLAIN), (one.where, Style.DIM), sign]
        )
    screen.table(["what", "left", "looked for", ""], rows)
