"""Makes the table of docs/reliability.md: every story, every way to die, and how often something was lost or left.

python -m tests.faults.report            print it
python -m tests.faults.report --write    put it into docs/reliability.md
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.estate import Broken
from tests.faults.machine import LifeOfAgents
from tests.faults.mortal import Death
from tests.faults.scenarios import SCENARIOS, Scenario, run

DOC = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table: python -m tests.faults.report --write -->", "<!-- end of the table -->"

#: Heading, how it dies, for how long nobody takes its place, whether its records are lost.
WAYS = (
    ("killed, 2 s", Death.NOW, 2.0, False),
    ("killed, 40 s", Death.NOW, 40.0, False),
    ("a call under way", Death.LATE, 1.0, False),
    ("records lost too", Death.NOW, 2.0, True),
)
#: The steps of an agent's life by what the last thing was that the process did or was about to do.
STEPS = ("save", "register", "start", "tell", "bar", "fail", "fate", "snapshot", "remove", "stop", "forget", "adopt")


class Tally:
    """What came of the runs of one story."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.builds = 0
        self.broken: list[str] = []


def try_story(story: Scenario, folder: Path) -> Tally:
    """Every point, every way."""
    tally = Tally()
    points = run(story, _fresh(folder))
    for heading, death, down_s, lost in WAYS:
        for number, point in enumerate(points):
            late = death is Death.LATE
            if late and (point.startswith("before save") or not point.startswith("before")):
                continue
            step = next((s for s in STEPS if s in point), "other")
            tally.runs[heading] = tally.runs.get(heading, 0) + 1
            tally.steps[step] = tally.steps.get(step, 0) + 1
            tally.builds += len(story.ends)
            try:
                run(story, _fresh(folder), die_at=number, death=death, down_s=down_s, state_lost=lost)
            except Broken as error:
                tally.broken.append(f"{heading} at {number}, {point}: {error}")
    return tally


def _fresh(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def at_random(examples: int, steps: int) -> str:
    """So many lives in which anything may happen."""
    began = time.monotonic()
    chosen = settings(
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
        max_examples=examples,
        stateful_step_count=steps,
    )
    run_state_machine_as_test(LifeOfAgents, settings=chosen)
    return (
        f"Besides, {examples} random lives of up to {steps} events each (`tests/faults/machine.py`): "
        f"0 builds lost, 0 doubled, 0 things left; {time.monotonic() - began:.0f} s."
    )


def table(folder: Path) -> Iterator[str]:
    """Markdown, a line at a time."""
    headings = [way[0] for way in WAYS]
    yield "| story | " + " | ".join(headings) + " | builds | lost, doubled or left |"
    yield "|---|" + "---:|" * (len(headings) + 2)
    steps: dict[str, int] = {}
    runs = builds = broken = 0
    for story in SCENARIOS:
        tally = try_story(story, folder)
        cells = [str(tally.runs.get(heading, 0)) for heading in headings]
        yield f"| {story.name} | {' | '.join(cells)} | {tally.builds} | {len(tally.broken)} |"
        for line in tally.broken[:3]:
            print(line)
        for step, count in tally.steps.items():
            steps[step] = steps.get(step, 0) + count
        runs, builds, broken = runs + sum(tally.runs.values()), builds + tally.builds, broken + len(tally.broken)
    yield f"| **all** | {' | '.join(' ' for _ in headings)} | **{builds}** | **{broken}** |"
    yield ""
    shown = ", ".join(f"{step} {count}" for step, count in sorted(steps.items(), key=lambda pair: -pair[1]))
    yield f"{runs} deaths; by the step at which the process died: {shown}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    parser.add_argument("--lives", type=int, default=200, help="random lives besides the stories")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="provisioner-report-") as folder:
        lines = [*table(Path(folder)), "", at_random(args.lives, 60)]
    text = "\n".join(lines)
    print(text)
    if args.write:
        doc = DOC.read_text()
        before, rest = doc.split(BEGIN)
        DOC.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
