"""Anything may happen in any order to processes of their own: stand-in, sidecar, and agents of the process backend."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests import leaks
from tests.faults.plant import Plant
from tests.seen_processes import agents_of
from tests.standin_process import StandinProcess, ask

pytestmark = [pytest.mark.standin, pytest.mark.slow, pytest.mark.timeout(3000)]

PICK = st.integers(0, 7)
WRONG = st.sampled_from(
    [
        {"error_rate": 0.5, "error_status": 503},
        {"drop_rate": 0.4, "drop_after": True},
        {"truncate_rate": 0.4},
        {"html_for_json": True},
        {"login_redirect": True},
    ]
)


class Processes(RuleBasedStateMachine):
    """One controller, one sidecar with two slots; every build is queued once and must run once, or be cancelled."""

    standin: StandinProcess

    @initialize(bridge=st.sampled_from(["auto", "auto", "off"]))
    def begin(self, bridge: str) -> None:
        self.standin.reset()
        self.folder = tempfile.TemporaryDirectory(prefix="provisioner-machine-")
        self.plant = Plant(self.standin, Path(self.folder.name))
        self.plant.sidecar.config["controllers"][0] |= {"bridge": bridge, "poll_interval": 0.2}
        self.plant.sidecar.config["templates"][0]["retries"] = 9
        self.plant.sidecar.write()
        self.plant.sidecar.start()
        self.alive = True
        self.cancelled: set[str] = set()

    @rule(build_s=st.sampled_from([0.0, 1.0, 3.0]))
    def queue(self, build_s: float) -> None:
        self.plant.build(f"sleep {build_s}")

    @rule(seconds=st.sampled_from([0.2, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        time.sleep(seconds)

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        items = ask(self.standin, "GET", "queue/api/json?tree=items[id,task[name]]").json()["items"]
        if items:
            item = items[pick % len(items)]
            if ask(self.standin, "POST", f"queue/cancelItem?id={item['id']}").status == 204:
                self.cancelled.add(item["task"]["name"])

    @rule(pick=PICK)
    def an_agent_is_killed(self, pick: int) -> None:
        if pids := sorted(agents_of(self.plant.owner)):
            with suppress(ProcessLookupError):
                os.kill(pids[pick % len(pids)], signal.SIGKILL)

    @rule(pick=PICK)
    def a_person_deletes_a_node(self, pick: int) -> None:
        if names := self.plant.ours():
            ask(self.standin, "POST", f"computer/{names[pick % len(names)]}/doDelete")

    @rule(down_s=st.sampled_from([0.0, 2.0]))
    def the_controller_restarts(self, down_s: float) -> None:
        self.standin.restart(down_s=down_s)

    @rule(wrong=WRONG, seconds=st.sampled_from([0.5, 3.0]))
    def it_answers_wrongly(self, wrong: dict[str, object], seconds: float) -> None:
        self.standin.knobs(**wrong)
        time.sleep(seconds)
        self.standin.knobs(reset=True)

    @rule(seconds=st.sampled_from([0.0, 2.0]))
    def the_sidecar_is_killed(self, seconds: float) -> None:
        if self.alive:
            self.plant.sidecar.kill()
            self.alive = False
        time.sleep(seconds)

    @rule()
    def it_starts_again(self) -> None:
        if not self.alive:
            self.plant.sidecar.start(ready=False)
            self.alive = True

    @rule()
    def it_reloads(self) -> None:
        if self.alive:
            os.kill(self.plant.sidecar.pid, signal.SIGHUP)

    def teardown(self) -> None:
        if not hasattr(self, "plant"):
            return
        plant = self.plant
        try:
            self.standin.knobs(reset=True)
            self.it_starts_again()
            wanted = [name for name in plant.jobs if name not in self.cancelled]
            for name in wanted:
                plant.sidecar.until(lambda n=name: plant.result(n), f"{name} ended", within_s=240)  # type: ignore[misc]
            plant.sidecar.until(lambda: not plant.ours(), "no node is left", within_s=240)
            plant.sidecar.until(lambda: plant.sidecar.metric("agents") == 0, "no agent is left", within_s=120)
            plant.sidecar.until(lambda: not agents_of(plant.owner), "no process is left", within_s=120)
            ran = [record["build"].split("/")[1] for record in self.standin.state()["history"]]
            assert sorted(name for name in ran if name not in self.cancelled) == sorted(wanted)
            assert "loop.fault" not in plant.sidecar.log(100_000)
        finally:
            plant.sidecar.stop()
            self.folder.cleanup()
        assert not leaks.left_of(plant.owner)


def test_the_guarantees_hold_for_processes_in_orders_that_nobody_has_tried(standin: StandinProcess) -> None:
    Processes.standin = standin
    chosen = settings(
        max_examples=int(os.environ.get("MACHINE_EXAMPLES", "6")),
        stateful_step_count=25,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(Processes, settings=chosen)
