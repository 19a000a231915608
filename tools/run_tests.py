"""The whole suite in three runs, one closing table, and a look at what it left behind.

    python tools/run_tests.py [PYTEST ARGUMENT …]

First what needs nothing but this machine, in parallel, and beside it, one test at a time, what asks a Docker engine for
all that it has; then what needs a real Jenkins, three files at once with a controller each. A failure or two beside a
real engine or controller is tried once more, and told. REQUIRE_TIERS (names, or `available`) turns a tier that did not
run into a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import leaks, tiers  # noqa: E402

PARALLEL = min(8, 2 * (os.cpu_count() or 2))  # they wait for their processes more than they compute
SLOW = bool(os.environ.get("SLOW"))
#: Tests that take minutes, or that a machine under load may upset, run when they are asked for.
WITHOUT_SLOW = "" if SLOW else " and not slow"
#: Some of the slow ones measure, and want the machine for themselves.
CONTROLLERS = 0 if SLOW else min(3, 1 + (os.cpu_count() or 1))
#: Runs of one group go on at once.
GROUPS = (
    {
        "unit and stand-in": ["-n", str(PARALLEL), "-m", "not docker and not jenkins" + WITHOUT_SLOW],
        "docker": ["-m", "docker and not jenkins" + WITHOUT_SLOW],
    },
    {"jenkins": ["-n", str(CONTROLLERS), "--dist", "loadfile", "--durations=10", "-m", "jenkins" + WITHOUT_SLOW]},
)
#: pytest: all passed, some failed, none collected. Anything else is a run that broke.
UNDERSTOOD = {0, 1, 5}
GRACE_S = 20.0
STOP_S = 120.0


class Run:
    """One pytest process, begun; of those that go on at once only the first one prints as it goes.

    Args:
        name: what it is called in the output.
        arguments: for pytest.
        env: its environment.
        aloud: print as it goes; otherwise when it has ended.
    """

    def __init__(self, name: str, arguments: Sequence[str], env: Mapping[str, str], *, aloud: bool = True) -> None:
        self._name = name
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._report = folder / "tiers.json"
        self._output = None if aloud else self._stack.enter_context((folder / "output").open("w+b"))
        command = [sys.executable, "-m", "pytest", "-q", "-rfE", f"--tier-report={self._report}", *arguments]
        if aloud:
            print(f"== {name}", flush=True)
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=self._output, stderr=subprocess.STDOUT if self._output else None
        )

    def interrupted(self) -> None:
        """The terminal's signal went to pytest too: wait until it has cleaned up."""
        self._process.wait(STOP_S)
        self._stack.close()

    def ended(self) -> tuple[dict[str, tiers.Result], list[str]]:
        """Wait for its end: its results, and what is wrong with the run itself."""
        status = self._process.wait()
        if self._output is None:
            print(f"== {self._name}: {time.monotonic() - self._began:.0f} s\n", flush=True)
        else:
            self._output.seek(0)
            print(f"== {self._name}, beside it\n{self._output.read().decode(errors='replace')}", flush=True)
        problems = [] if status in UNDERSTOOD else [f"pytest ended with status {status} ({self._name})"]
        results = tiers.read_report(self._report)
        self._stack.close()
        if status == 1 and not any(result.outcome == "failed" for result in results.values()):
            problems.append(f"pytest reports a failure that no test had ({self._name})")
        return results, problems


def run(group: Mapping[str, Sequence[str]], env: Mapping[str, str]) -> tuple[dict[str, tiers.Result], list[str]]:
    """Runs at once: the results of all, and what is wrong with the runs themselves."""
    results: dict[str, tiers.Result] = {}
    problems: list[str] = []
    begun: list[Run] = []
    try:
        for name, arguments in group.items():
            begun.append(Run(name, arguments, env, aloud=not begun))
        for one in begun:
            more, broken = one.ended()
            results |= more
            problems += broken
    except KeyboardInterrupt:
        for one in begun:
            one.interrupted()
        raise
    return results, problems


def left_behind(mark: str, before: set[str]) -> list[str]:
    """What has the mark now and had not before, and still has it after a while: removals may be under way."""
    deadline = time.monotonic() + GRACE_S
    while (left := leaks.marked(mark) - before) and time.monotonic() < deadline:
        time.sleep(1)
    return sorted(left)


def main() -> int:
    """Run everything; 0 only if no test failed, nothing is left and every required tier ran."""
    mark = leaks.new_run()
    env = {**os.environ, leaks.RUN_VARIABLE: mark}
    required = env.pop("REQUIRE_TIERS", "")
    before = leaks.marked(mark)
    results: dict[str, tiers.Result] = {}
    problems: list[str] = []
    for group in GROUPS:
        more, broken = run({name: [*arguments, *sys.argv[1:]] for name, arguments in group.items()}, env)
        results |= more
        problems += broken
    repeated = tiers.to_repeat(results)
    for test in repeated:
        more, broken = run({f"once more, alone: {test}": [test]}, env)
        results |= more
        problems += broken
    problems += [f"left behind: {thing}" for thing in left_behind(mark, before)]
    problems += tiers.not_run(required, results.values())
    print("\n".join(tiers.table(results.values())) + "\n")
    if WITHOUT_SLOW:
        print("tests marked slow were left out; SLOW=1 make test runs them too")
    for test in repeated:
        print(f"SECOND ATTEMPT: {test} failed at first, then {results[test].outcome}")
    for problem in problems:
        print(f"FAILURE: {problem}")
    count = Counter(result.outcome for result in results.values())
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if problems or count["failed"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
