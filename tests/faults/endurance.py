"""Long runs of a whole sidecar beside the stand-in, both processes of their own: soak, scale, idle.

    python -m tests.faults.endurance soak [--minutes 30] [--builds 20000] [--seed N]
    python -m tests.faults.endurance scale
    python -m tests.faults.endurance idle [--minutes 10]

Instances are files and agents are simulated (`light_sidecar.py`), so that what is measured is the sidecar. Each prints
its figures as one JSON object, and ends with status 1 if a build was lost, a thing left, or a limit passed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sidecar_process import SidecarProcess
from tests.standin_process import StandinProcess, ask

ROOT = Path(__file__).parents[2]
TICK_HZ = os.sysconf("SC_CLK_TCK")

#: What goes wrong with the controller's answers; each is put right after some seconds.
BAD_ANSWERS: tuple[dict[str, Any], ...] = (
    {"error_rate": 1.0, "error_status": 503},
    {"error_rate": 0.3, "error_status": 500},
    {"login_redirect": True},
    {"truncate_rate": 0.5},
    {"html_for_json": True},
    {"drop_rate": 0.5},
    {"drop_rate": 0.5, "drop_after": True},
    {"forbid": True},
    {"latency_ms": 2000.0},
)


class LightSidecar(SidecarProcess):
    """A sidecar whose instances are files."""

    patience_s = 60.0

    def start(self, *, ready: bool = True) -> None:
        env = {**os.environ, "JENKINS_TOKEN": self._token, "PYTHONPATH": str(ROOT)}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.light_sidecar", "run", "-c", str(self.config_file)],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until(lambda: self._answers("/readyz" if ready else "/healthz"), "the sidecar is ready", within_s=60)

    def figures(self) -> dict[str, float]:
        """What the process uses now."""
        proc = Path("/proc") / str(self.pid)
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        files = self.folder.glob("state/state.db*")
        return {
            "cpu_s": (int(fields[11]) + int(fields[12])) / TICK_HZ,
            "memory_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
            "threads": int(status["Threads"]),
            "descriptors": sum(1 for _ in (proc / "fd").iterdir()),
            "database_mb": round(sum(f.stat().st_size for f in files if f.suffix != ".lock") / 1e6, 2),
        }


class Site:
    """One stand-in and one sidecar."""

    def __init__(self, standin: StandinProcess, folder: Path, *, agents: int, launching: int) -> None:
        self.standin = standin
        self.instances = folder / "instances"
        config: dict[str, Any] = {
            "id": "endurance",
            "controllers": [
                {"name": "main", "url": standin.url, "user": standin.user, "token": {"env": "JENKINS_TOKEN"}}
            ],
            "limits": {"agents": agents, "launching": launching},
            "providers": [
                {"name": "here", "backend": "process", "max_agents": agents, "work_dir": str(self.instances)}
            ],
            "templates": [
                {"name": "any", "labels": ["scale"], "providers": ["here"], "retries": 5, "timeouts": {"connect": "2m"}}
            ],
        }
        self.sidecar = LightSidecar(folder, config, token=standin.token)
        self.queued: list[int] = []

    def queue(self, number: int) -> None:
        made = self.standin.scale(items=number, label="scale")
        self.queued += range(made["first_id"], made["first_id"] + number)

    def state(self) -> dict[str, Any]:
        return self.standin.state()

    def done(self) -> int:
        """How many builds have ended."""
        return sum(1 for record in self.state()["history"] if record["finished_ms"] is not None)

    def until(self, true: Callable[[], object], what: str, within_s: float) -> None:
        self.sidecar.until(true, what, within_s=within_s)

    def left(self) -> list[str]:
        """What is still there of nodes, instances and agents."""
        return [
            *(f"node {name}" for name in self.state()["nodes"]),
            *(f"instance {path.stem}" for path in self.instances.glob("*.instance")),
            *(f"{int(n)} agents" for n in [self.sidecar.metric("agents")] if n),
        ]

    def lost(self) -> dict[str, list[int]]:
        """Queue items that ran never or more than once."""
        ran = Counter(record["queue_id"] for record in self.state()["history"])
        return {
            "never": [n for n in self.queued if not ran[n]],
            "twice": [n for n in self.queued if ran[n] > 1],
        }


# -- soak


def misfortune(site: Site, chance: random.Random, tally: Counter[str], *, may_kill: bool) -> None:
    """One thing goes wrong, and is put right."""
    kinds = ["answers", "answers", "restart", "provider", "node", "instance", "stopped", "controller stopped"]
    kind = chance.choice([*kinds, "killed", "killed", "restarted"] if may_kill else [*kinds, "reload"])
    tally[kind] += 1
    match kind:
        case "answers":
            site.standin.knobs(**chance.choice(BAD_ANSWERS))
            time.sleep(chance.choice([0.5, 3, 10]))
            site.standin.knobs(reset=True)
        case "restart":
            site.standin.restart(down_s=chance.choice([0.0, 1.0, 8.0]))
        case "provider":
            (site.instances / "down").touch()
            time.sleep(chance.choice([1, 5, 15]))
            (site.instances / "down").unlink()
        case "node":
            if nodes := sorted(site.state()["nodes"]):
                ask(site.standin, "POST", f"computer/{chance.choice(nodes)}/doDelete")
        case "instance":
            if files := sorted(site.instances.glob("*.instance")):
                chance.choice(files).unlink(missing_ok=True)
        case "stopped" | "controller stopped":
            pid = site.sidecar.pid if kind == "stopped" else site.standin.pid
            os.kill(pid, signal.SIGSTOP)
            time.sleep(chance.choice([0.5, 2, 8]))
            os.kill(pid, signal.SIGCONT)
        case "killed":
            site.sidecar.kill()
            time.sleep(chance.choice([0, 1, 5]))
            site.sidecar.start(ready=False)
        case "restarted":
            site.sidecar.stop()
            site.sidecar.start(ready=False)
        case "reload":
            os.kill(site.sidecar.pid, signal.SIGHUP)


def soak(folder: Path, minutes: float, builds: int, seed: int) -> dict[str, Any]:
    """Builds at an even pace and faults at random; in the last three quarters no process of ours is replaced."""
    print(f"seed {seed}", flush=True)
    chance, tally, samples = random.Random(seed), Counter[str](), list[dict[str, float]]()
    with StandinProcess("--bridge", "init") as standin:
        standin.scale(agents={"build_s": 1.0, "connect_s": 0.2})
        site = Site(standin, folder, agents=60, launching=40)
        site.sidecar.start()
        began, length_s = time.monotonic(), minutes * 60
        next_fault, next_look, long_life = 5.0, 0.0, False
        try:
            while (passed := time.monotonic() - began) < length_s or len(site.queued) < builds:
                due = min(builds, int(builds * passed / length_s)) - len(site.queued)
                if due > 0:
                    site.queue(due)
                if passed > length_s / 4 and not long_life:
                    site.sidecar.stop()
                    site.sidecar.start(ready=False)
                    long_life = True
                if long_life and passed >= next_look:
                    samples.append({"at_s": round(passed), **site.sidecar.figures()})
                    print(json.dumps({**samples[-1], "queued": len(site.queued)}), flush=True)
                    next_look = passed + length_s / 60
                if passed >= next_fault:
                    misfortune(site, chance, tally, may_kill=not long_life)
                    next_fault = time.monotonic() - began + chance.uniform(2, 18)
                time.sleep(0.25)
            site.until(lambda: site.done() >= len(site.queued), "every build ended", 600)
            site.until(lambda: not site.left(), "nothing is left", 300)
            lost = site.lost()
            samples.append({"at_s": round(time.monotonic() - began), **site.sidecar.figures()})
            found = {"lost": len(lost["never"]), "doubled": len(lost["twice"]), "left": site.left()}
        finally:
            standin.knobs(reset=True)
            site.sidecar.stop()
    errors = sum('"level": "error"' in line for line in site.sidecar.log_file.read_text().splitlines())
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "builds": len(site.queued),
        "faults": dict(sorted(tally.items())),
        **found,
        "errors_logged": errors,
        "flat": flat(samples),
        "samples": len(samples),
    }


def flat(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Medians of the third quarter of one life against those of its last quarter, of everything that could grow."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    return {
        name: {
            "early": statistics.median(sample[name] for sample in early),
            "late": statistics.median(sample[name] for sample in late),
        }
        for name in ("memory_mb", "threads", "descriptors", "database_mb")
    }


# -- scale


def burst(folder: Path, *, items: int, agents: int, build_s: float) -> dict[str, float]:
    """So many items with so many agents: what a build costs the sidecar."""
    folder.mkdir()
    with StandinProcess("--bridge", "init") as standin:
        standin.scale(agents={"build_s": build_s})
        site = Site(standin, folder, agents=agents, launching=agents)
        site.sidecar.start()
        time.sleep(4)  # the first sweeps are over
        before = site.sidecar.figures()
        began = time.monotonic()
        most: dict[str, float] = {}
        try:
            site.queue(items)
            site.until(lambda: site.sidecar.metric("requests"), "the first items are seen", 30)
            while site.sidecar.metric("requests") or site.sidecar.metric("agents"):
                now = site.sidecar.figures() | {"agents": site.sidecar.metric("agents")}
                most = now if now["agents"] >= most.get("agents", 0) else most
                time.sleep(0.5)
            wall_s = time.monotonic() - began
            after = site.sidecar.figures()
            lost, left = site.lost(), site.left()
        finally:
            site.sidecar.stop()
    if lost["never"] or lost["twice"] or left:
        raise AssertionError(f"lost {lost}, left {left}")
    cpu_s = after["cpu_s"] - before["cpu_s"]
    return {
        "items": items,
        "agents_allowed": agents,
        "agents_at_once": most.get("agents", 0),
        "seconds": round(wall_s, 1),
        "cpu_ms_per_build": round(1000 * cpu_s / items, 2),
        "agents_per_cpu_second": round(items / cpu_s, 1),
        "memory_kb_per_agent": round(
            1024 * (most.get("memory_mb", 0) - before["memory_mb"]) / max(1, most.get("agents", 1)), 1
        ),
    }


def scale(folder: Path, turns: int) -> dict[str, Any]:
    """10,000 items with 1,000 agents against 100 with 10, in turn."""
    small: list[dict[str, Any]] = []
    large: list[dict[str, Any]] = []
    for turn in range(turns):
        for _ in range(3):
            small.append(burst(folder / f"small-{len(small)}", items=100, agents=10, build_s=0.5))
        large.append(burst(folder / f"large-{turn}", items=10_000, agents=1_000, build_s=5.0))
        print(json.dumps({"small": small[-3:], "large": large[-1]}), flush=True)
    cost = {
        name: statistics.median(one["cpu_ms_per_build"] for one in runs)
        for name, runs in (("small", small), ("large", large))
    }
    return {
        "small": small,
        "large": large,
        "cpu_ms_per_build": cost,
        "ratio": round(cost["large"] / cost["small"], 2),
        "agents_per_core_second": round(1000 / cost["large"], 1),
    }


# -- idle


def idle(folder: Path, minutes: float, bridge: str) -> dict[str, Any]:
    """Nothing to do, and what that costs."""
    with StandinProcess(*(("--bridge", "init") if bridge == "auto" else ())) as standin:
        site = Site(standin, folder, agents=100, launching=20)
        site.sidecar.config["controllers"][0]["bridge"] = bridge
        site.sidecar.write()
        site.sidecar.start()
        time.sleep(15)
        before, began = site.sidecar.figures(), time.monotonic()
        time.sleep(minutes * 60)
        after, passed_s = site.sidecar.figures(), time.monotonic() - began
        site.sidecar.stop()
    share = (after["cpu_s"] - before["cpu_s"]) / passed_s
    return {
        "bridge": bridge,
        "seconds": round(passed_s),
        "percent_of_a_core": round(100 * share, 3),
        **{name: [before[name], after[name]] for name in ("memory_mb", "threads", "descriptors", "database_mb")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["soak", "scale", "idle"])
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--builds", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--bridge", choices=["auto", "off"], default="auto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="provisioner-endurance-") as made:
        folder = Path(made)
        if args.what == "soak":
            seed = args.seed if args.seed is not None else random.SystemRandom().randrange(10**6)
            found = soak(folder, args.minutes or 30, args.builds, seed)
            bad = bool(found["lost"] or found["doubled"] or found["left"])
        elif args.what == "scale":
            found = scale(folder, args.turns)
            bad = found["ratio"] > 1.2 or found["agents_per_core_second"] < 50
        else:
            found = idle(folder, args.minutes or 10, args.bridge)
            bad = found["percent_of_a_core"] > 0.5
        if bad:
            log = folder / "sidecar.log"
            print(log.read_text()[-4000:] if log.exists() else "", file=sys.stderr)
    print(json.dumps(found, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
