"""Makes the tables of docs/reliability.md.

    python -m tests.faults.report                  print them
    python -m tests.faults.report --write          put them into docs/reliability.md
    python -m tests.faults.report --part crashes   only one of the two
    python -m tests.faults.report --results FILE … take what `pytest --tier-report FILE` left; run nothing

First every story with a death at each of its points, by the step at which the process died; then every other fault,
by the tests that cause it (`faults_table.py`); then lives in which anything may happen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults import faults_table
from tests.faults.estate import Broken
from tests.faults.machine import LifeOfAgents
from tests.faults.mortal import Death
from tests.faults.scenarios import SCENARIOS, Scenario, run

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- {part}: made by python -m tests.faults.report --write -->", "<!-- end of {part} -->"

#: Heading, how it dies, for how long nobody takes its place, whether its records are lost.
WAYS = (
    ("killed, next one after 2 s", Death.NOW, 2.0, False),
    ("after 40 s", Death.NOW, 40.0, False),
    ("a call still under way lands later", Death.LATE, 1.0, False),
    ("records lost too", Death.NOW, 2.0, True),
)
#: The steps of an agent's life by what the process was doing last; the first that fits.
STEPS = {
    "save agent": "writing a record of an agent",
    "save request": "writing a record of a request",
    "save ": "writing anything else",
    "forget request": "dropping the record of a request",
    "register": "registering the node",
    "start step": "starting the instance, between its steps",
    "adopt": "telling a new bridge about a node",
    "tell": "telling the console",
    "bar": "closing the node",
    "others": "asking who else could serve it",
    "fail": "ending the build with its reason",
    "fate": "asking what became of an item",
    "snapshot": "looking at everything",
    "remove found": "sweeping a leftover",
    "remove node": "removing the node",
    "stop": "removing the instance",
}
#: Words of a guarantee that is about what is left or too much, not about a build.
_LEFT = ("nothing is left", "no request is left", "records of live agents", "instances, more than")


@dataclass
class Tally:
    """What came of the runs at one step."""

    runs: Counter[str] = field(default_factory=Counter)
    builds: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    left: int = 0


def step_of(point: str) -> str:
    return next((told for words, told in STEPS.items() if words in point), "anything else")


def try_story(story: Scenario, folder: Path, tallies: dict[str, Tally]) -> Iterator[str]:
    """Every point, every way; what was broken."""
    points = run(story, _fresh(folder))
    for heading, death, down_s, lost in WAYS:
        for number, point in enumerate(points):
            if death is Death.LATE and (point.startswith("before save") or not point.startswith("before")):
                continue  # what is written to the own disk cannot be late
            tally = tallies.setdefault(step_of(point), Tally())
            tally.runs[heading] += 1
            tally.builds += len(story.ends)
            try:
                run(
                    story,
                    _fresh(folder),
                    die_at=number,
                    death=death,
                    down_s=down_s,
                    state_lost=lost,
                    ends=tally.ends,
                )
            except Broken as error:
                left = any(words in str(error).splitlines()[0] for words in _LEFT)
                tally.left, tally.lost = tally.left + left, tally.lost + (not left)
                yield f"{story.name}, {heading} at {number}, {point}: {error}"


def _fresh(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def crash_points(folder: Path) -> Iterator[str]:
    """Markdown, a line at a time."""
    tallies: dict[str, Tally] = {}
    for story in SCENARIOS:
        for broken in try_story(story, folder, tallies):
            print(broken, file=sys.stderr)
    headings = [way[0] for way in WAYS]
    yield f"| died while | {' | '.join(headings)} | what became of the builds | lost or doubled | things left |"
    yield "|---|" + "---:|" * len(headings) + "---|---:|---:|"
    known = [told for told in dict.fromkeys(STEPS.values()) if told in tallies]
    for step in [*known, *(set(tallies) - set(known))]:
        tally = tallies[step]
        cells = " | ".join(str(tally.runs[heading]) for heading in headings)
        ends = ", ".join(f"{count} {end}" for end, count in tally.ends.most_common())
        yield f"| {step} | {cells} | {ends} | {tally.lost} | {tally.left} |"
    sums = " | ".join(str(sum(t.runs[h] for t in tallies.values())) for h in headings)
    lost, left = sum(t.lost for t in tallies.values()), sum(t.left for t in tallies.values())
    builds = sum(t.builds for t in tallies.values())
    yield f"| **all** | {sums} | {builds} builds | **{lost}** | **{left}** |"
    yield ""
    deaths = sum(sum(t.runs.values()) for t in tallies.values())
    yield f"{deaths} deaths in {len(SCENARIOS)} stories: {', '.join(story.name for story in SCENARIOS)}."


def other_faults(folder: Path, known: list[Path]) -> Iterator[str]:
    """Run the tests that cause them, the slow ones too, unless their results are there."""
    if not known:
        known = [folder / "results.json"]
        command = [sys.executable, "-m", "pytest", "-q", f"--tier-report={known[0]}", *faults_table.SUITE]
        command += [f"--ignore={path}" for path in faults_table.WITHOUT]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "SLOW": "1"}, check=False, stdout=sys.stderr)
    results: dict[str, str] = {}
    for path in known:
        for test, result in json.loads(path.read_text()).items():
            if results.get(test) in (None, "skipped"):
                results[test] = result["outcome"]
    yield from faults_table.table(results)


def at_random(examples: int, steps: int) -> str:
    """So many lives in which anything may happen."""
    began, chosen = time.monotonic(), random.SystemRandom().randrange(2**32)
    how = settings(
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        max_examples=examples,
        stateful_step_count=steps,
        print_blob=True,
    )

    @seed(chosen)
    class Lives(LifeOfAgents):
        pass

    run_state_machine_as_test(Lives, settings=how)
    return (
        f"{examples} lives of up to {steps} events each in which anything happens in any order "
        f"(`tests/faults/machine.py`, seed {chosen}): 0 builds lost, 0 doubled, 0 things left; "
        f"{time.monotonic() - began:.0f} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    parser.add_argument("--lives", type=int, default=200, help="random lives besides the stories")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="results of tests that ran already")
    parser.add_argument("--part", choices=["crashes", "faults"], nargs="*", default=["crashes", "faults"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="provisioner-report-") as made:
        folder = Path(made)
        for part in args.part:
            if part == "crashes":
                lines = [*crash_points(folder), "", at_random(args.lives, 60)]
            else:
                lines = [*other_faults(folder, args.results)]
            text = "\n".join(lines)
            print(text, flush=True)
            if args.write:
                begin, end = BEGIN.format(part=part), END.format(part=part)
                before, rest = DOC.read_text().split(begin)
                DOC.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
