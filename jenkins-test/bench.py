"""The figures of the product's contract, measured in turn with the same agent started by hand.

    python jenkins-test/bench.py                      all of them, about ten minutes on two cores
    python jenkins-test/bench.py --figures burst --burst 20 --out FILE

Figures: `single` (one build after the other, with the bridge), `standby` (the same with an agent that waits), `off`
(the same without the bridge), `burst`. `--env NAME=VALUE` gives the agents a variable, to try an option of Java:
`JDK_JAVA_OPTIONS`; with `--variants` the same builds are measured in turn with and without it.

It needs a Docker engine, the image of jenkins-test/images.sh and a real Jenkins (see controller.py). Each figure is a
ratio of medians taken in turn in one run, so that it holds on a noisy machine. RT is one
`GET api/json?tree=mode` at the same controller.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import controller as jenkins_test  # noqa: E402

from tests.sidecar_process import SidecarProcess  # noqa: E402

IMAGE = "jenkins-provisioner-test/agent:latest"
HAND = "byhand"


def milliseconds(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        "n": len(ordered),
        "p50": round(statistics.median(ordered), 1),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 1),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 1),
        "max": round(ordered[-1], 1),
    }


class Gone:
    """Notes the moment at which something that existed is no longer listed; polls in a thread."""

    def __init__(self, listed: Callable[[], set[str]]) -> None:
        self._listed = listed
        self.gone_at: dict[str, float] = {}
        self._before: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            now = self._listed()
            for name in self._before - now:
                self.gone_at[name] = time.time()
            self._before = now
            time.sleep(0.004)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


class Bench:
    def __init__(
        self, jenkins: Any, sidecar: SidecarProcess, engine: docker.DockerClient, jar: Path, standby: int
    ) -> None:
        self.jenkins = jenkins
        self.standby = standby
        self.sidecar = sidecar
        self.engine = engine
        self.jar = jar
        self.hands = 0
        self.removed_by_hand: list[float] = []

    def round_trip(self) -> float:
        began = time.perf_counter()
        self.jenkins.request("GET", "api/json?tree=mode")
        return (time.perf_counter() - began) * 1000

    def by_hand(self, job: str, *, label: str = HAND) -> float:
        """`docker run` to build start, milliseconds: the node is registered and the build waits already."""
        name, secret = self.register(label)
        before = self.next_number(job)
        self.jenkins.queue_build(job)
        time.sleep(0.2)
        began = time.time()
        self.run_agent(name, secret)
        build = self.jenkins.wait_build(job, before)
        removing = time.perf_counter()
        self.engine.api.remove_container(name, force=True, v=True)
        self.removed_by_hand.append((time.perf_counter() - removing) * 1000)
        self.jenkins.request("POST", f"computer/{name}/doDelete")
        return float(build["timestamp"]) - began * 1000

    def register(self, label: str) -> tuple[str, str]:
        self.hands += 1
        name = f"hand-{self.hands}-{int(time.time())}"
        node = {
            "name": name, "nodeDescription": "", "numExecutors": 1, "remoteFS": "/home/jenkins/agent",
            "labelString": label, "mode": "EXCLUSIVE", "type": "hudson.slaves.DumbSlave$DescriptorImpl",
            "retentionStrategy": {"stapler-class": "hudson.slaves.RetentionStrategy$Always"},
            "nodeProperties": {"stapler-class-bag": "true"},
            "launcher": {"stapler-class": "hudson.slaves.JNLPLauncher", "webSocket": True},
        }  # fmt: skip
        form = {"name": name, "type": node["type"], "json": json.dumps(node)}
        assert self.jenkins.request("POST", "computer/doCreateItem", form=form).status == 302
        launch = self.jenkins.request("GET", f"computer/{name}/jenkins-agent.jnlp").text
        found = re.search(r"<argument>([0-9a-f]+)</argument>", launch)
        assert found
        return name, found[1]

    def run_agent(self, name: str, secret: str) -> None:
        subprocess.run(
            ["docker", "run", "-d", "--name", name, "--network", "host", "--init",
             "-v", f"{self.jar}:/agent.jar:ro", IMAGE,
             "java", "-jar", "/agent.jar", "-url", self.jenkins.url, "-secret", secret, "-name", name,
             "-webSocket", "-workDir", "/home/jenkins/agent"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def next_number(self, job: str) -> int:
        return int(self.jenkins.get_json(f"job/{job}/api/json?tree=nextBuildNumber")["nextBuildNumber"])

    def provisioned(self, job: str) -> dict[str, float]:
        """One build by the sidecar: buildable → create, buildable → started, milliseconds."""
        number = self.next_number(job)
        since = time.time()
        queue_id = self.jenkins.queue_build(job)
        item = self.jenkins.get_json(f"queue/item/{queue_id}/api/json?tree=inQueueSince")
        build = self.jenkins.wait_build(job, number)
        node = build["builtOn"]
        ended = build["timestamp"] + build["duration"]
        # an agent on standby was created before anybody asked
        created = item["inQueueSince"] if self.standby else self.created_at(node, since)
        self.rest()
        return {
            "buildable_to_create": created - item["inQueueSince"],
            "buildable_to_started": build["timestamp"] - item["inQueueSince"],
            "ended": ended,
            "node": node,
        }

    def rest(self) -> None:
        """Wait until there is no agent but those that wait, connected."""
        self.sidecar.until(
            lambda: self.sidecar.metric("agents") == self.sidecar.metric("agents", state="idle") == self.standby,
            "nothing is under way",
            within_s=60,
        )

    def created_at(self, name: str, since: float) -> float:
        """When the engine made the container, milliseconds since the epoch, from the engine's own events."""
        events = self.engine.api.events(
            since=int(since) - 1,
            until=int(time.time()) + 1,
            decode=True,
            filters={"container": name, "event": "create"},
        )
        return float(min(event["timeNano"] for event in events)) / 1e6

    def phases(self) -> dict[str, list[float]]:
        """Phases of every agent, from the sidecar's own log, milliseconds."""
        found: dict[str, list[float]] = {"planned → registered": [], "registered → instance started": [],
                                         "create → online": [], "online → started": []}  # fmt: skip
        for line in self.sidecar.log_file.read_text().splitlines():
            if '"agent.done"' not in line:
                continue
            marks = json.loads(line)
            if "running" in marks:
                found["planned → registered"].append((marks["starting"] - marks["planned"]) * 1000)
                if "connecting" in marks:
                    found["registered → instance started"].append((marks["connecting"] - marks["starting"]) * 1000)
                found["create → online"].append((marks["idle"] - marks["starting"]) * 1000)
                found["online → started"].append((marks["running"] - marks["idle"]) * 1000)
        return found

    def burst(self, size: int, job: Callable[[int], str], *, by_hand: bool) -> float:
        """Seconds from the first `docker run` or build queued until all builds are finished."""
        jobs = [job(n) for n in range(size)]
        numbers = {name: self.next_number(name) for name in jobs}
        nodes = [self.register(f"{HAND}-{n}") for n in range(size)] if by_hand else []
        if by_hand:
            for name in jobs:
                self.jenkins.queue_build(name)
        began = time.monotonic()
        if by_hand:
            threads = [threading.Thread(target=self.run_agent, args=node) for node in nodes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            for name in jobs:
                self.jenkins.queue_build(name)
        for name in jobs:
            self.jenkins.wait_build(name, numbers[name], within_s=600)
        took = time.monotonic() - began
        for name, _ in nodes:
            self.engine.api.remove_container(name, force=True, v=True)
            self.jenkins.request("POST", f"computer/{name}/doDelete")
        if not by_hand:
            self.rest()
        return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", nargs="+", default=list(FIGURES), choices=FIGURES)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--burst", type=int, default=20, help="builds in a burst")
    parser.add_argument("--bursts", type=int, default=2, help="how many")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--variants", action="store_true", help="`single` in turn: as it is, and with each --env")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


FIGURES = ("single", "standby", "off", "burst")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    folder.chmod(0o755)
    jenkins = jenkins_test.RealController(folder / "home")
    jenkins.start()
    engine = docker.from_env(timeout=60)
    jar = folder / "agent.jar"
    jar.write_bytes(jenkins.request("GET", "jnlpJars/agent.jar").body)
    jar.chmod(0o644)
    jenkins.create_job("hand", jenkins_test.freestyle_xml("true", label=HAND))
    found: dict[str, Any] = {"machine": machine(engine), "load before": round(os.getloadavg()[0], 1)}
    try:
        for figure in options.figures:
            found[figure] = one_figure(figure, jenkins, engine, jar, folder, options)
    finally:
        jenkins.stop()
        engine.close()
    found["load after"] = round(os.getloadavg()[0], 1)
    return found


def machine(engine: docker.DockerClient) -> dict[str, Any]:
    info = engine.info()
    memory = f"{info['MemTotal'] / (1 << 30):.0f} GiB"
    return {"cores": info["NCPU"], "memory": memory, "Docker": info["ServerVersion"], "storage": info["Driver"]}


def one_figure(
    figure: str, jenkins: Any, engine: docker.DockerClient, jar: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """A sidecar of its own for each, at the same controller."""
    own, owner = folder / figure, f"bench-{figure}"
    own.mkdir()
    standby = 1 if figure == "standby" else 0
    template: dict[str, Any] = {
        "name": owner,
        "labels": [owner],
        "providers": ["box"],
        "image": IMAGE,
        "pull": "never",
        "standby": standby,
    }
    given = [one.split("=", 1) for one in options.env]
    templates = [template | {"env": {} if options.variants else dict(given)}]
    variants = {"as it is": owner}
    for number, (name, value) in enumerate(given if options.variants else ()):
        other = f"{owner}-{number}"
        variants[f"{name}={value}"] = other
        templates.append(template | {"name": other, "labels": [other], "env": {name: value}})
    sidecar = SidecarProcess(
        own,
        {
            "id": owner,
            "controllers": [
                {"name": "main", "url": jenkins.url, "user": jenkins.user, "token": {"env": "JENKINS_TOKEN"},
                 "bridge": "off" if figure == "off" else "auto"}
            ],
            "limits": {"agents": 200, "launching": max(20, options.burst)},
            "providers": [{"name": "box", "backend": "docker", "network": "host", "max_agents": 50}],
            "templates": templates,
        },
        token=jenkins.token,
    )  # fmt: skip
    mark = {"label": f"jenkins-provisioner.owner={owner}"}
    nodes = boxes = None
    try:
        sidecar.start()
        bench = Bench(jenkins, sidecar, engine, jar, standby)
        bench.rest()
        for label in variants.values():
            jenkins.create_job(label, jenkins_test.freestyle_xml("true", label=label))
            for _ in range(4):  # the controller, the jars that agents fetch, the class data
                bench.provisioned(label)
                time.sleep(2.0)
        bench.by_hand("hand")
        if figure == "burst":
            return bursts(bench, jenkins, owner, options)
        if options.variants:
            return compared(bench, variants, options.turns)
        nodes = Gone(lambda: {n for n in jenkins.nodes() if n.startswith(f"{owner}-")})
        boxes = Gone(lambda: {c["Names"][0][1:] for c in engine.api.containers(all=True, filters=mark)})
        return report(bench, owner, options.turns, nodes, boxes)
    finally:
        for gone in (nodes, boxes):
            if gone is not None:
                gone.end()
        sidecar.stop()


def compared(bench: Bench, variants: dict[str, str], turns: int) -> dict[str, Any]:
    """Builds with each variant, in turn."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    hands = []
    for _ in range(turns):
        hands.append(bench.by_hand("hand"))
        for name, job in variants.items():
            samples[name].append(bench.provisioned(job)["buildable_to_started"])
    hand = statistics.median(hands)
    return {
        "by hand": milliseconds(hands),
        **{
            name: {**milliseconds(values), "over by hand": round(statistics.median(values) / hand, 3)}
            for name, values in samples.items()
        },
    }


def report(bench: Bench, owner: str, turns: int, nodes: Gone, boxes: Gone) -> dict[str, Any]:
    samples: dict[str, list[float]] = {"rt": [], "hand": [], "create": [], "started": [], "node": [], "instance": []}
    requests = calls(bench)
    for _ in range(turns):
        samples["rt"] += [bench.round_trip() for _ in range(5)]
        samples["hand"].append(bench.by_hand("hand"))
        ours = bench.provisioned(owner)
        samples["create"].append(ours["buildable_to_create"])
        samples["started"].append(ours["buildable_to_started"])
        time.sleep(0.1)
        for key, gone in (("node", nodes), ("instance", boxes)):
            samples[key].append(gone.gone_at[str(ours["node"])] * 1000 - ours["ended"])
    spent = {op: count - requests.get(op, 0) for op, count in calls(bench).items()}
    rt, hand = statistics.median(samples["rt"]), statistics.median(samples["hand"])
    create = milliseconds(samples["create"])
    removed = statistics.median(bench.removed_by_hand)
    return {
        "RT": milliseconds(samples["rt"]),
        "by hand: docker run → build started": milliseconds(samples["hand"]),
        "by hand: docker rm": milliseconds(bench.removed_by_hand),
        **({} if bench.standby else {"buildable → create request": create}),
        "buildable → build started": milliseconds(samples["started"]),
        "finished → node gone": milliseconds(samples["node"]),
        "finished → instance gone": milliseconds(samples["instance"]),
        **{name: milliseconds(values) for name, values in bench.phases().items() if values},
        "ratios": {
            **(
                {}
                if bench.standby
                else {
                    "buildable → create, in RT, p50": round(create["p50"] / rt, 1),
                    "buildable → create, in RT, p99": round(create["p99"] / rt, 1),
                }
            ),
            "buildable → started over by hand, p50": round(statistics.median(samples["started"]) / hand, 3),
            "finished → node gone, in RT, p95": round(milliseconds(samples["node"])["p95"] / rt, 1),
            "finished → instance gone, less 50 RT, over by hand, p50": round(
                (statistics.median(samples["instance"]) - 50 * rt) / removed, 2
            ),
        },
        "requests to the controller per build": {
            op: round(count / turns, 2) for op, count in sorted(spent.items()) if count
        },
    }


def bursts(bench: Bench, jenkins: Any, owner: str, options: argparse.Namespace) -> dict[str, Any]:
    xml, size = jenkins_test.freestyle_xml, options.burst
    for n in range(size):
        jenkins.create_job(f"hand-{n}", xml("true", label=f"{HAND}-{n}"))
        jenkins.create_job(f"ours-{n}", xml("true", label=owner))
    hands, ours = [], []
    for _ in range(options.bursts):
        hands.append(bench.burst(size, lambda n: f"hand-{n}", by_hand=True))
        ours.append(bench.burst(size, lambda n: f"ours-{n}", by_hand=False))
    return {
        "builds": size,
        "by hand, s": [round(s, 2) for s in hands],
        "ours, s": [round(s, 2) for s in ours],
        "ratio": round(statistics.median(ours) / statistics.median(hands), 3),
    }


def calls(bench: Bench) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in bench.sidecar.get("/metrics")[1].splitlines():
        match = re.match(r'jenkins_provisioner_controller_requests_total\{.*op="([a-z_]+)"\} ([0-9.]+)', line)
        if match:
            found[match[1]] = found.get(match[1], 0.0) + float(match[2])
    return found


if __name__ == "__main__":
    sys.exit(main())
