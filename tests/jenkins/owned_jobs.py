"""Jobs at a real controller that belong to one test."""

from __future__ import annotations

import time
from typing import Any

from controller import RealController, freestyle_xml, pipeline_xml

#: Whether the executor of a freestyle build waits for the end of the process that its step has started.
_WAITS_FOR_PROCESS = """
print jenkins.model.Jenkins.get().computers.any {{ computer -> computer.executors.any {{ executor ->
    String.valueOf(executor.currentExecutable).startsWith('{job} #') &&
        executor.stackTrace.any {{ it.methodName == 'join' && it.className.contains('ProcImpl') }} }} }}
"""


class OwnedJobs:
    """Their names begin with the owner id of the test, which is also the label that they ask for."""

    def __init__(self, jenkins: RealController, owner: str) -> None:
        self.jenkins, self.owner = jenkins, owner
        self.jobs: list[str] = []

    def add(self, name: str, xml: str) -> str:
        job = f"{self.owner}-{name}"
        self.jenkins.create_job(job, xml)
        self.jobs.append(job)
        return job

    def freestyle(self, name: str, shell: str = "true", *, label: str | None = None, **more: Any) -> str:
        return self.add(name, freestyle_xml(shell, label=label or self.owner, **more))

    def pipeline(self, name: str, script: str) -> str:
        return self.add(name, pipeline_xml(script))

    def node_step(self, name: str, steps: str) -> str:
        """A Pipeline that runs all its steps on one agent."""
        return self.pipeline(name, f"node('{self.owner}') {{ {steps} }}")

    def queued(self, job: str) -> str:
        self.jenkins.queue_build(job)
        return job

    def stop_in_shell(self, job: str, *, within_s: float = 120.0) -> None:
        """A person stops the first build of a freestyle job, once its shell runs.

        Before that Jenkins may lose the stop, or make a failure of the build (while it asks for the streams of the
        process, which may already have written something): not what these tests are about.
        """
        deadline = time.monotonic() + within_s
        while self.jenkins.script(_WAITS_FOR_PROCESS.format(job=job)) != "true":
            assert time.monotonic() < deadline, f"no shell of {job} runs: {self.jenkins.build(job)}"
            time.sleep(0.3)
        self.jenkins.request("POST", f"job/{job}/1/stop")

    def nodes(self) -> list[str]:
        """Those that say of themselves that they are the owner's."""
        computers = self.jenkins.get_json("computer/api/json?tree=computer[displayName,description]")["computer"]
        return [c["displayName"] for c in computers if f"owner={self.owner} " in (c.get("description") or "")]

    def end_jobs(self) -> None:
        """Each with what waits or runs of it."""
        for job in self.jobs:
            for item in self.jenkins.queue_items():
                if f"/{job}/" in str(item["task"].get("url", "")):
                    self.jenkins.cancel(item["id"])
            build = self.jenkins.build(job)
            if build and build["building"]:
                self.jenkins.request("POST", f"job/{job}/{build['number']}/kill")
            self.jenkins.delete_job(job)
