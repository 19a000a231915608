"""The demo's course: start, queue, watch, show, end; and the proof that nothing is left."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from demo import processes, report
from demo.controllers import Client, RealJenkins, StandIn, answers
from demo.interrupts import DemoError, Interrupted, Interrupts
from demo.jobs import Job, jobs
from demo.places import MAX_AGENTS, Containers, Place, Processes
from demo.processes import Child
from demo.report import Left, Outcome
from demo.screen import Screen, Style
from demo.sidecar import SidecarRun, Story
from provisioner.backends.process import proc

T = TypeVar("T")

_LOOK_S = 0.1
_SIDECAR_S = 60.0
_BUILDS_S = 120.0
_GONE_S = 30.0
#: What the provisioner promises after SIGTERM, and what it gets when the demo is interrupted.
_STOP_S = 10.0
_STOP_NOW_S = 2.0
_STOP_CONTROLLER_S = 60.0
_FAILED = 1


class Demo:
    """One run of it."""

    def __init__(self, interrupts: Interrupts, screen: Screen, args: argparse.Namespace) -> None:
        self._interrupts = interrupts
        self._screen = screen
        self._real = bool(args.jenkins)
        self.id = f"demo-{os.urandom(4).hex()}"
        # not mkdtemp: the path stands in many lines of the consoles, and the id is random enough
        self._folder = Path(tempfile.gettempdir()) / f"provisioner-{self.id}"
        self._folder.mkdir(mode=0o700)
        scratch = self._folder / "tmp"
        scratch.mkdir()
        self._env = processes.environment(self.id, scratch)
        self._place: Place = (
            Containers(self.id, real_java=self._real, image=args.image)
            if args.backend == "docker"
            else Processes(self._folder, self.id, real_java=self._real)
        )
        self._controller: StandIn | RealJenkins | None = None
        self._sidecar: SidecarRun | None = None
        self._client: Client | None = None
        self._ports: list[int] = []
        self._told: set[str] = set()  # agents of which the screen has told
        self._nodes: list[str] | None = None
        self._instances: list[str] | None = None
        self._problems: list[str] = []

    def run(self) -> int:
        """The exit status."""
        interrupted: Interrupted | None = None
        try:
            self._work()
        except Interrupted as reason:
            interrupted = reason
            self._screen.line()
            self._screen.event(f"{reason}: ending everything", Style.ODD)
        except DemoError as error:
            self._problems.append(str(error))
            self._screen.line()
            self._screen.line(f"The demo cannot go on: {error}", Style.BAD)
        finally:
            left = self._clear()
        report.print_left(self._screen, left)
        self._problems += [one.problem for one in left if one.problem]
        self._screen.line()
        if self._problems:
            self._screen.line(f"The demo failed after {self._screen.age_s:.1f} s:", Style.BAD)
            for problem in self._problems:
                self._screen.line(f"  - {problem}")
        elif interrupted:
            self._screen.line(f"Interrupted after {self._screen.age_s:.1f} s; nothing is left behind.", Style.ODD)
        else:
            self._screen.line(
                f"Every build ended as it should and nothing is left behind, after {self._screen.age_s:.1f} s.",
                Style.GOOD,
            )
        if interrupted and self._interrupts.signal:
            return 128 + self._interrupts.signal.value
        return _FAILED if self._problems else 0

    # -- the course

    def _work(self) -> None:
        made = self._place.prepare()
        if made:
            self._screen.event(made)
        client = self._start_controller()
        sidecar = self._start_sidecar()
        todo = jobs(self._place.slug)
        for job in todo:
            client.create_job(job.name, job.xml)
        for job in todo:
            client.queue(job.name, job.parameters)
        self._screen.event(f"{len(todo)} builds queued: {', '.join(job.name for job in todo)}")
        results = self._watch(client, sidecar, todo)
        self._until(lambda: self._all_gone(client, sidecar), "removing the agents", _GONE_S, may_fail=True)
        self._show(client, sidecar, todo, results)
        self._nodes = client.nodes()
        status = sidecar.child.end(patience_s=_STOP_S)
        if status != 0:
            self._problems.append(
                f"the provisioner ended with status {status}; its last lines:\n{sidecar.child.tail()}"
            )
        self._instances = self._place.left()

    def _start_controller(self) -> Client:
        make = RealJenkins if self._real else StandIn
        controller = self._controller = make(self._folder, self._env)
        self._until(lambda: controller.access() is not None, f"starting a {controller.title}", controller.start_s)
        access = controller.access()
        assert access is not None
        self._access = access
        self._client = Client(access)
        self._ports += [port for port in (access.port, self._client.agent_port()) if port]
        self._screen.event(f"{controller.title} at {access.url}")
        return self._client

    def _start_sidecar(self) -> SidecarRun:
        sidecar = self._sidecar = SidecarRun(
            self._folder,
            self._env,
            self._access,
            owner=self.id,
            providers=self._place.providers(),
            templates=self._place.templates(),
        )

        def ready() -> bool:
            sidecar.follow()
            return sidecar.ready()

        self._until(ready, "starting the provisioner", _SIDECAR_S)
        sidecar.follow()
        if sidecar.port:
            self._ports.append(sidecar.port)
        self._screen.event(
            f"provisioner {self.id} at work: bridge {sidecar.bridge}, backend {self._place.backend}, "
            f"at most {MAX_AGENTS} agents at once"
        )
        return sidecar

    def _watch(self, client: Client, sidecar: SidecarRun, todo: Sequence[Job]) -> dict[str, str]:
        """Until every build has ended; how each did."""
        results: dict[str, str] = {}

        def done() -> bool:
            sidecar.follow()
            for story in sidecar.stories.values():
                self._tell(story)
            for job in todo:
                if job.name not in results and (result := client.result(job.name)) is not None:
                    results[job.name] = result
                    self._screen.event(f"{job.name} #1 ended: {result}")
            return len(results) == len(todo)

        def doing() -> str:
            states = Counter(story.state for story in sidecar.stories.values() if not story.gone)
            agents = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
            return f"builds {len(results)}/{len(todo)} | agents: {agents} | in the queue: {client.waiting()}"

        self._until(done, "running the builds", _BUILDS_S, doing=doing, may_fail=True)
        return results

    def _tell(self, story: Story) -> None:
        began_s = story.at_s["planned"]
        if story.name in self._told:
            return
        if story.at_s.keys() >= {"idle", "running"}:
            self._told.add(story.name)
            online_s = story.at_s["idle"] - began_s
            self._screen.event(f"agent {story.name} connected after {online_s:.2f} s, runs {story.job}")
        elif story.reason:
            self._told.add(story.name)
            self._screen.event(f"agent {story.name} for {story.job} cannot start: {story.reason}", Style.ODD)

    def _all_gone(self, client: Client, sidecar: SidecarRun) -> bool:
        sidecar.follow()
        return all(story.gone for story in sidecar.stories.values()) and not client.nodes()

    def _show(self, client: Client, sidecar: SidecarRun, todo: Sequence[Job], results: dict[str, str]) -> None:
        outcomes = []
        for job in todo:
            ran = [s for s in sidecar.stories.values() if s.job == job.name and "running" in s.at_s]
            outcomes.append(
                Outcome(
                    job=job,
                    result=results.get(job.name, "never"),
                    console=client.console(job.name) if job.name in results else "",
                    agents=[story.name for story in ran],
                )
            )
        for outcome in outcomes:
            report.print_console(self._screen, outcome)
            self._problems += outcome.problems()
        report.print_phases(self._screen, sidecar.stories)
        report.print_outcomes(self._screen, outcomes)
        self._problems += [
            f"agent {story.name} was never removed; it is {story.state}"
            for story in sidecar.stories.values()
            if not story.gone
        ]

    def _until(
        self,
        true: Callable[[], bool],
        what: str,
        within_s: float,
        *,
        doing: Callable[[], str] | None = None,
        may_fail: bool = False,
    ) -> None:
        """Wait for it, with a live line. `may_fail`: what comes after tells by itself what is missing.

        Raises:
            Interrupted: a signal came.
            DemoError: it took too long, or a child ended.
        """
        deadline = time.monotonic() + within_s
        while not true():
            for child in self._children():
                child.check()
            if self._screen.broken:
                raise DemoError("nobody reads the output any more")
            if time.monotonic() > deadline:
                self._screen.close()
                if may_fail:
                    return
                tails = "\n".join(f"  last lines of the {child.name}:\n{child.tail()}" for child in self._children())
                raise DemoError(f"{what} took longer than {within_s:.0f} s\n{tails}")
            self._screen.live(doing() if doing else what)
            self._interrupts.pause(_LOOK_S)
        self._screen.close()

    def _children(self) -> list[Child]:
        return [one.child for one in (self._controller, self._sidecar) if one is not None]

    # -- the end

    def _clear(self) -> list[Left]:
        """End and remove everything, however far it came; what is left all the same."""
        self._interrupts.held = True
        in_order = self._instances is not None
        for child in reversed(self._children()):
            patience_s = _STOP_CONTROLLER_S if in_order and self._real else _STOP_NOW_S
            self._attempt(lambda child=child, s=patience_s: child.end(patience_s=s))  # type: ignore[misc]
        # in order, nothing may be there any more to end; otherwise agents are in the middle of their work
        stray = [f"{one.id.pid} ({one.command[:80]})" for one in processes.marked(self.id)] if in_order else []
        stays = self._attempt(lambda: processes.end_marked(self.id)) or []
        uncleared = self._attempt(self._place.clear)
        if self._instances is None:
            self._instances = uncleared
        self._attempt(self._remove_folder)
        stray += [f"{one.id.pid} ({one.command[:80]})" for one in stays]
        ports = [str(port) for port in self._ports if answers(port)]
        kept = [str(self._folder)] if self._folder.exists() else []
        told_ports = ", ".join(map(str, self._ports)) or "none was opened"
        return [
            Left(
                kind="nodes",
                where="gone with the controller" if self._nodes is None else "at the controller, before its end",
                things=self._nodes,
            ),
            Left(kind="instances", where=f"{self._place.instances} of {self.id}", things=self._instances),
            Left(kind="processes", where=f"with the mark {self.id}", things=stray),
            Left(kind="files", where=str(self._folder), things=kept),
            Left(kind="ports", where=told_ports, things=ports),
        ]

    def _remove_folder(self) -> None:
        for _attempt in range(3):
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._folder.exists():
                return
            time.sleep(0.1)

    def _attempt(self, act: Callable[[], T]) -> T | None:
        """Do one part of the end; its failure must not keep the others from being done."""
        try:
            return act()
        except Exception as error:  # noqa: BLE001
            self._problems.append(f"while ending: {type(error).__name__}: {error}")
            return None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="provisioner demo", allow_abbrev=False)
    parser.add_argument("--backend", choices=("process", "docker"), default=os.environ.get("BACKEND") or "process")
    parser.add_argument("--jenkins", action="store_true", default=bool(os.environ.get("JENKINS_WAR")))
    parser.add_argument("--image", default=os.environ.get("DEMO_IMAGE") or None)
    args = parser.parse_args(argv)
    if args.backend not in ("process", "docker"):  # a default is not held against the choices
        parser.error(f"BACKEND is {args.backend!r}; it can be process or docker")
    return args


def main(interrupts: Interrupts, argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 only if every build ended as it should and nothing is left."""
    args = _arguments(argv)
    screen = Screen()
    if not proc.readable():
        screen.line("The demo needs Linux: without /proc it could not tell whether anything is left behind.")
        return _FAILED
    return Demo(interrupts, screen, args).run()
