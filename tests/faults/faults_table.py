"""The faults of docs/reliability.md beside the crash points, each with the tests that cause it.

Each of these tests fails if a build is lost or runs twice, or if a node, instance, process or record is left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: What is run for the table.
SUITE = (
    "tests/faults",
    "tests/contract",
    "tests/jenkins/test_killed_for_real.py",
    "tests/jenkins/test_engine_outages.py",
)
#: Of that, what has a table of its own or takes an hour.
WITHOUT = ("tests/faults/test_crash_points.py", "tests/faults/test_soak.py", "tests/faults/test_state_machine.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One line: the tests are those whose id the pattern finds."""

    fault: str
    step: str
    then: str
    tests: str


def _answers(fault: str, named: str) -> Fault:
    return Fault(
        fault=f"controller: {fault}",
        step="a build runs; another is queued after",
        then="the build runs on; `/readyz` 503 with the reason, `/healthz` 200; the other one is served afterwards",
        tests=rf"answers_wrongly.*\[{re.escape(named)}-",
    )


FAULTS = (
    Fault(
        fault="`kill -9`, a process of its own",
        step="a sample of persisted steps and of both sides of calls (stand-in, process backend)",
        then="the next process adopts or removes; the build runs once",
        tests=r"test_kill_for_real.*killed_at_a_point",
    ),
    Fault(
        fault="`kill -9` beside a real Jenkins and a real Docker engine",
        step="sample of 8 points of freestyle and Pipeline builds over websocket, one point over tcp and ssh-gateway",
        then="the same",
        tests=r"test_killed_for_real.*[\[-]docker",
    ),
    Fault(
        fault="`kill -9` beside a real Jenkins, process backend",
        step="the same",
        then="the same",
        tests=r"test_killed_for_real.*[\[-]process",
    ),
    Fault(
        fault="`kill -9` in a start or stop, every backend",
        step="after every id that a start yields",
        then="start goes on or stop removes all; a listing shows what is left",
        tests=r"test_backend_contract.*(killed|crash_point|taken_over|outlives)",
    ),
    Fault(
        fault="stop before, during and after a start, every backend",
        step="between two steps, in the middle of one, before the first",
        then="stop wins: the start ends with `cancelled`, nothing comes up later",
        tests=r"test_backend_contract.*(stop_between|stop_while|stop_after|start_after_stop|two_stops|stop_twice)",
    ),
    _answers("503", "503"),
    _answers("500", "500"),
    _answers("redirect to the login", "a redirect to the login"),
    _answers("truncated JSON", "half of an answer"),
    _answers("HTML for JSON", "a page of HTML"),
    _answers("connection broken before the act", "no answer at all"),
    _answers("connection broken after the act", "no answer although it was done"),
    _answers("403 to everything", "forbidden"),
    _answers("31 s latency", "after 30 s"),
    Fault(
        fault="controller down for ten minutes",
        step="idle, and with a running build",
        then="told by `/readyz`, every loop alive; the build ends well",
        tests=r"test_health.*-controller\]",
    ),
    Fault(
        fault="controller stopped (SIGSTOP)",
        step="a build runs",
        then="`/readyz` 503 after its time-out (REST 2 s here, bridge 55 s); goes on",
        tests=r"a_controller_that_was_stopped",
    ),
    Fault(
        fault="sidecar stopped (SIGSTOP)",
        step="an agent is coming",
        then="goes on; the build that came meanwhile is served",
        tests=r"a_sidecar_that_was_stopped",
    ),
    Fault(
        fault="agent stopped (SIGSTOP)",
        step="its build runs",
        then="goes on",
        tests=r"an_agent_that_was_stopped",
    ),
    Fault(
        fault="engine down",
        step="idle, a build runs, another waits (simulated and a real engine)",
        then="named by `/readyz`; the build ends well; the other one waits and is served afterwards",
        tests=r"(test_health.*engine down|test_engine_outages.*is down)",
    ),
    Fault(
        fault="engine hangs (a real one: SIGSTOP)",
        step="idle, a build runs, another waits (simulated and a real engine)",
        then="the same, after the provider's time-out; another engine takes over",
        tests=r"(test_health.*(engine hangs|one_engine_of_two)|test_engine_outages.*hangs)",
    ),
    Fault(
        fault="disk full, or every write refused",
        step="before, at 1, 3 and 5 s of a life; a failing launch; a kill meanwhile",
        then="`/readyz` names the state file; no act without its intent on disk; all builds run",
        tests=r"test_state_file.*(refuses_every_write|disk_is_full|transaction)",
    ),
    Fault(
        fault="state file locked by another program",
        step="a request comes",
        then="`/readyz` says locked; nothing is registered until it lets go",
        tests=r"another_program_has_locked",
    ),
    Fault(
        fault="state file damaged, or a record of it",
        step="a build runs, sidecar killed",
        then="kept aside; rebuilt from the marks outside; the running build ends well",
        tests=r"test_state_file.*(damaged|cannot_be_read|survives_the_loss)",
    ),
    Fault(
        fault="no free file descriptor",
        step="a build is queued",
        then="the process lives, waits, and serves it afterwards",
        tests=r"without_free_descriptors",
    ),
    Fault(
        fault="wall clock set back or forth by hours",
        step="a pause after a failure; before the connection; a build runs",
        then="no pause, time-out or limit is longer or shorter for it",
        tests=r"(test_clock|jump_of_the_wall_clock)",
    ),
    Fault(
        fault="agent connects late",
        step="within, and after `timeouts.connect`",
        then="runs; or is replaced, then the build ends with `connect_timeout`",
        tests=r"test_agents.*connects_(late|too_late)",
    ),
    Fault(
        fault="agent never connects, or is connected and never online",
        step="launch",
        then="replaced after `timeouts.connect`",
        tests=r"hangs_before_it_connects",
    ),
    Fault(
        fault="agent connects twice",
        step="its build runs",
        then="the second is refused, the build goes on",
        tests=r"second_agent_of_the_same_name",
    ),
    Fault(
        fault="agent loses its connection and returns",
        step="before its build; during a Pipeline, after 5 s, 1 and 15 minutes, and over an outage of the controller",
        then="runs, goes on; one node in all",
        tests=r"test_agents.*(returns|outage_of_the_controller)",
    ),
    Fault(
        fault="agent loses its connection and does not return",
        step="during a Pipeline",
        then="given up after 30 minutes (`agent_lost`), the `node` step ends",
        tests=r"does_not_return",
    ),
    Fault(
        fault="agent hangs",
        step="its build runs",
        then="ended by `timeouts.build`; stopped processes are removed, too",
        tests=r"(hangs_with_its_build|hangs_for_ever)",
    ),
    Fault(
        fault="two sidecars with one owner id",
        step="a build runs at the first",
        then="the second does nothing and says why; restarts of one are no second one",
        tests=r"test_two_sidecars.*(refuses|restarted)",
    ),
    Fault(
        fault="take-over: machine gone, state lost",
        step="idle, and a build runs",
        then="adopted from the marks; the build ends well",
        tests=r"test_two_sidecars.*takes_over",
    ),
    Fault(
        fault="queue item out of sight for a moment; agent gone before its item was seen again",
        step="launch; after a kill",
        then="keeps its agent; gets another one",
        tests=r"test_queue",
    ),
    Fault(
        fault="nodes and instances of ours without a record",
        step="seen twice, listing complete; incomplete; another owner's",
        then="shown by `orphans` with reason and age, removed; kept; not touched",
        tests=r"test_orphans",
    ),
)


def table(results: Mapping[str, str]) -> Iterator[str]:
    """Markdown from the outcome of each test (`passed`, `failed`, `skipped`), by its id."""
    yield "| fault | step | what happened | runs | builds lost or doubled, things left |"
    yield "|---|---|---|---:|---:|"
    for fault in FAULTS:
        found = Counter(outcome for test, outcome in results.items() if re.search(fault.tests, test))
        ran = found["passed"] + found["failed"]
        runs = str(ran) if ran else "not run here"
        yield f"| {fault.fault} | {fault.step} | {fault.then} | {runs} | {found['failed'] if ran else ''} |"
