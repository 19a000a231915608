"""Long-lived nodes with real agents, and jobs whose steps write down on the node itself what happened there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from controller import RealController, freestyle_xml, pipeline_xml

from tests.jenkins.bridge_rig import Agents

JOB = "node-cleanup"
#: A build takes longer than a look: without the guard that is the window in which a second one may slip in.
BUILD_S = 5
#: A build lasts for as long as a test has spoilt its node so.
_STAY = "while [ -e ../../stay ]; do sleep 0.2; done"
_WORK = f'echo "B+ $BUILD_TAG" >> ../../journal; sleep {BUILD_S}; {_STAY}; echo "B- $BUILD_TAG" >> ../../journal'
_CLEAN_SHELL = r"""
    trap 'echo "C- $BUILD_TAG" >> ../../journal' EXIT
    trap 'exit 143' TERM
    echo "C+ $BUILD_TAG" >> ../../journal
    [ ! -e ../../hang ] || sleep 600
    sleep 1
    [ ! -e ../../broken ]
    echo "C! $BUILD_TAG" >> ../../journal
"""
_CLEAN = f"node(params.NODE) {{ sh '''{_CLEAN_SHELL}''' }}"
_CONCURRENT = ("<concurrentBuild>false", "<concurrentBuild>true")
_NODE_PARAMETER = """<org.jvnet.jenkins.plugins.nodelabelparameter.NodeParameterDefinition>
<name>NODE</name><allowedSlaves><string>ALL (no restriction)</string></allowedSlaves><defaultSlaves/>
<triggerIfResult>multiSelectionDisallowed</triggerIfResult><allowMultiNodeSelection>false</allowMultiNodeSelection>
<triggerConcurrentBuilds>false</triggerConcurrentBuilds><ignoreOfflineNodes>false</ignoreOfflineNodes>
<nodeEligibility class="org.jvnet.jenkins.plugins.nodelabelparameter.node.AllNodeEligibility"/>
</org.jvnet.jenkins.plugins.nodelabelparameter.NodeParameterDefinition>"""
_STRING_PARAMETER = re.compile(
    r"<hudson.model.StringParameterDefinition><name>NODE</name>.*?</hudson.model.StringParameterDefinition>"
)


def cleaning_xml(kind: str) -> str:
    """The cleanup job: a `pipeline`, or a freestyle job with a parameter of `node-label` or a `plain` one."""
    if kind == "pipeline":
        return pipeline_xml(_CLEAN, parameters={"NODE": ""})
    xml = freestyle_xml(_CLEAN_SHELL, parameters={"NODE": ""}).replace(*_CONCURRENT)
    return _STRING_PARAMETER.sub(_NODE_PARAMETER, xml) if kind == "node-label" else xml


class Counts(NamedTuple):
    """What the journals tell."""

    builds: int
    cleanings: int  # good ones
    slipped: int  # builds on a node that was used since its cleaning
    unseen: int  # nodes that still have the label clean although they were used


class Plant:
    """Nodes of one controller that are cleaned, each with one executor and a journal in its root folder."""

    def __init__(self, jenkins: RealController, folder: Path, names: Iterable[str], *, kind: str = "pipeline") -> None:
        self.jenkins = jenkins
        self.names = tuple(names)
        self.agents = Agents(jenkins, folder)
        self.folder = folder
        jenkins.create_job(JOB, cleaning_xml(kind))
        work = freestyle_xml(_WORK, label="clean", parameters={"N": ""})
        jenkins.create_job("work", work.replace(*_CONCURRENT))
        jenkins.create_job("work-pipeline", pipeline_xml(f"node('clean') {{ sh '''{_WORK}''' }}", parameters={"N": ""}))
        quick = 'echo "B+ $BUILD_TAG" >> ../../journal; echo "B- $BUILD_TAG" >> ../../journal'
        quick = freestyle_xml(quick, label="clean", parameters={"N": ""})
        jenkins.create_job("quick", quick.replace(*_CONCURRENT))
        for name in self.names:
            own = freestyle_xml(_WORK, label=f"clean&&last-{name}", parameters={"N": ""})
            jenkins.create_job(f"work-{name}", own)
        for name in self.names:
            self._add(name)
        self.until(lambda: all(self.computer(name)["offline"] is False for name in self.names), "all are connected")
        self._queued = 0
        self.since: dict[str, int] = {}  # how long each journal was when the test began

    def _add(self, name: str) -> None:
        always, launcher = "hudson.slaves.RetentionStrategy$Always", "hudson.slaves.JNLPLauncher"
        node = {
            "name": name,
            "nodeDescription": "a person wrote this",
            "numExecutors": "1",
            "remoteFS": self.agents.home(name),
            "labelString": f'linux  cleanable "odd label" last-{name}',
            "mode": "EXCLUSIVE",
            "type": "hudson.slaves.DumbSlave",
            "retentionStrategy": {"stapler-class": always, "$class": always},
            "nodeProperties": {"stapler-class-bag": "true"},
            "launcher": {"stapler-class": launcher, "$class": launcher, "webSocket": True},
        }
        form = {"name": name, "type": "hudson.slaves.DumbSlave", "json": json.dumps(node)}
        assert self.jenkins.request("POST", "computer/doCreateItem", form=form).status == 302
        launch = self.jenkins.request("GET", f"computer/{name}/jenkins-agent.jnlp").text
        found = re.search(r"<argument>([0-9a-f]{64})</argument>", launch)
        assert found is not None
        self.agents.start(name, found[1])

    def remove(self) -> None:
        for item in self.jenkins.queue_items():
            self.jenkins.cancel(item["id"])
        for name in self.names:
            self.jenkins.request("POST", f"computer/{name}/doDelete")
        self.agents.end()
        for job in (JOB, "work", "work-pipeline", "quick", *(f"work-{name}" for name in self.names)):
            self.jenkins.delete_job(job)

    # -- what a test looks at

    @staticmethod
    def step(sign: str, lasts_s: float) -> str:
        """The shell step of a build that writes down its begin and its end."""
        said = f'echo "{sign}%s $BUILD_TAG" >> ../../journal'
        return f"{said % '+'}; sleep {lasts_s}; {_STAY}; {said % '-'}"

    def computer(self, name: str) -> dict[str, Any]:
        tree = "offline,temporarilyOffline,offlineCauseReason,assignedLabels[name]"
        found: dict[str, Any] = self.jenkins.get_json(f"computer/{name}/api/json?tree={tree}")
        return found

    def label_string(self, name: str) -> str:
        found = re.search("<label>(.*)</label>", self.jenkins.request("GET", f"computer/{name}/config.xml").text)
        assert found is not None
        return found[1]

    def save_form(self, name: str, change: str) -> None:
        """A person changes the node on its page; `text` is its label field."""
        self.jenkins.script(
            f"""
            def j = jenkins.model.Jenkins.get()
            hudson.model.Queue.withLock({{ ->
                def node = j.getNode('{name}')
                def changed = jenkins.model.Jenkins.XSTREAM.fromXML(jenkins.model.Jenkins.XSTREAM.toXML(node))
                def text = node.labelString
                changed.labelString = {change}
                j.nodesObject.replaceNode(node, changed)
            }} as Runnable)
            """
        )

    def is_clean(self, name: str) -> bool:
        return self.label_string(name).split()[-1] == "clean"

    def journal(self, name: str) -> list[str]:
        file = Path(self.agents.home(name)) / "journal"
        return file.read_text().splitlines() if file.exists() else []

    def spoil(self, name: str, how: str) -> None:
        (Path(self.agents.home(name)) / how).touch()

    def mend(self, name: str, how: str) -> None:
        (Path(self.agents.home(name)) / how).unlink()

    def mend_all(self, name: str) -> None:
        for how in ("broken", "hang", "stay"):
            (Path(self.agents.home(name)) / how).unlink(missing_ok=True)

    def work(self, builds: int) -> list[tuple[str, int]]:
        """Queue builds that need a clean node, of both kinds in turn; their queue ids."""
        queued = []
        for _ in range(builds):
            self._queued += 1
            job = "work" if self._queued % 2 else "work-pipeline"
            queued.append((job, self.jenkins.queue_build(job, {"N": str(self._queued)})))
        return queued

    def all_done(self) -> bool:
        """No build that needs a clean node waits or runs."""
        # a Pipeline whose step waits has begun; its item has no name
        if any("work" in item["task"].get("name", "") for item in self.jenkins.queue_items()):
            return False
        tree = "api/json?tree=builds[building,result]"
        return all(
            not build["building"] and build["result"] == "SUCCESS"
            for job in ("work", "work-pipeline", *(f"work-{name}" for name in self.names))
            for build in self.jenkins.get_json(f"job/{job}/{tree}")["builds"]
        )

    def until(self, true: Callable[[], object], what: str, *, within_s: float = 400.0) -> None:
        deadline = time.monotonic() + within_s
        while not true():
            if time.monotonic() > deadline:
                seen = {name: (self.label_string(name), self.journal(name)[-4:]) for name in self.names}
                raise AssertionError(f"never so within {within_s:.0f} s: {what}\n{seen}")
            time.sleep(0.2)

    def check(self, *, window: bool = False) -> Counts:
        """Every node by its own journal: builds only right after a good cleaning, nothing at the same time.

        Args:
            window: without the guard a second build may come to a used node, and a build that begins and ends
                between two looks is missed; count those.
        """
        builds = cleanings = slipped = unseen = 0
        for name in self.names:
            clean, inside = name in self.since, ""
            for line in self.journal(name)[self.since.get(name, 0) :]:
                sign, tag = line.split()
                where = f"{name}: {line} in {self.journal(name)}"
                if sign in {"B+", "C+"}:
                    assert not inside, where
                    assert sign == "C+" or clean or window, where
                    slipped += sign == "B+" and not clean
                    clean, inside = False, tag
                elif sign == "C!":
                    assert inside == tag, where
                    clean = True
                    cleanings += 1
                else:
                    assert inside == tag, where
                    inside = ""
                    builds += sign == "B-"
            unseen += not clean and self.is_clean(name)
            others = self.label_string(name).removesuffix("clean").removesuffix("dirty").rstrip()
            assert others == f"linux  cleanable &quot;odd label&quot; last-{name}"
        return Counts(builds, cleanings, slipped, unseen)

    def begin(self) -> None:
        """All nodes are clean; what was written before is another test's."""
        self.since = {name: len(self.journal(name)) for name in self.names}


class CleanupProcess:
    """`provisioner cleanup` as its users run it."""

    def __init__(
        self, plant: Plant, folder: Path, name: str, *, bridge: str = "auto", url: str = "", **cleanup: Any
    ) -> None:
        self._env = {**os.environ, "JENKINS_TOKEN": plant.jenkins.token}
        self.file = folder / f"{name}.yaml"
        self.log_file = folder / f"{name}.log"
        controller = {
            "name": "main",
            "url": url or plant.jenkins.url,
            "user": plant.jenkins.user,
            "token": {"env": "JENKINS_TOKEN"},
            "bridge": bridge,
        }
        settings = {"controller": "main", "job": JOB, "interval": 1, "retry_after": 1, "at_once": 3, **cleanup}
        self.file.write_text(yaml.safe_dump({"id": name, "controllers": [controller], "cleanup": settings}))
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "provisioner", "cleanup", "-c", str(self.file), *options]

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.poll() is None, self.log()
            process.kill()
            process.wait(timeout=10)

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def run(self, *options: str, within_s: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*options), env=self._env, capture_output=True, text=True, timeout=within_s, check=False
        )

    def table(self, *options: str) -> dict[str, dict[str, Any]]:
        """What `--json` says, by node."""
        ended = self.run(*options, "--json")
        assert ended.returncode in {0, 1}, ended.stderr
        return {row["node"]: row for row in json.loads(ended.stdout)["nodes"]}
