"""Two stand-ins, and what can be lent between them, by plain REST and over SSH."""

from __future__ import annotations

import subprocess
from pathlib import Path

from controller import freestyle_xml, pipeline_xml

from tests.builds import build, create_job, result
from tests.loan_pair import CLEANING, LoanPair
from tests.ssh_machine import SshMachine
from tests.standin_process import AgentProcess, StandinProcess, ask, eventually

NODE = "static-1"


class Estate(LoanPair[StandinProcess]):
    """The node is in a folder beside its agent's log."""

    node = NODE

    def __init__(self, lender: StandinProcess, borrower: StandinProcess, machine: SshMachine, folder: Path) -> None:
        super().__init__(lender, borrower, folder, folder / NODE)
        self.machine = machine
        clean = "node(params.NODE) { sh 'echo cleaned >> ../../journal' }"
        create_job(lender, CLEANING, pipeline_xml(clean, parameters={"NODE": ""}))
        create_job(lender, "at-home", freestyle_xml("echo home >> ../../journal", label="clean"))
        create_job(lender, "long", freestyle_xml("while [ ! -e ../../go ]; do sleep 0.1; done", label="linux"))
        create_job(borrower, "away", freestyle_xml("echo away >> ../../../../../journal", label="gpu"))
        create_job(borrower, "long", freestyle_xml("while [ ! -e ../../../../../go ]; do sleep 0.1; done", label="gpu"))
        self.add_node()
        self.agent = AgentProcess(lender, NODE, folder)
        eventually(lambda: not self.home()["offline"], "the node is connected")
        self.by_plain_rest()
        self.settings["cleanup"]["retry_after"] = 0
        self.settings["loans"]["connect"] = 20
        self.reach_by_ssh(machine, java=lender.java)

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def build(self, controller: StandinProcess, job: str, *, wait: bool = True) -> None:
        build(controller, job)
        if wait:
            eventually(lambda: self.result(controller, job) == "SUCCESS", f"{job} has run", within_s=40)

    def result(self, controller: StandinProcess, job: str) -> str | None:
        return result(controller, job, "lastBuild")

    def running(self, controller: StandinProcess, job: str) -> bool:
        reply = ask(controller, "GET", f"job/{job}/lastBuild/api/json")
        return reply.status == 200 and bool(reply.json()["building"])

    def end(self) -> None:
        (self.root / "go").touch()
        self.run("--once")
        for name in self.guests():
            self.run(NODE, "--return", "--now")
            assert self.processes(name) == []
        self.agent.end()
