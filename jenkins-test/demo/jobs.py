"""The demo's jobs, and what each build must show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller import freestyle_xml, pipeline_xml

#: Three `node` blocks: one, then two at once.
_PIPELINE = """\
stage('build') {
  node('linux') { sh 'echo compiling on $NODE_NAME; sleep 0.5' }
}
stage('test') {
  parallel(
    unit: { node('linux') { sh 'echo unit tests on $NODE_NAME; sleep 1' } },
    browser: { node('linux') { sh 'echo browser tests on $NODE_NAME; sleep 0.5' } }
  )
}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job, of which one build is queued."""

    name: str
    xml: str
    result: str
    agents: int  # that run something of it
    console: tuple[str, ...]  # what its console must have
    parameters: Mapping[str, str] = field(default_factory=dict)


def jobs(slug: str) -> list[Job]:
    """All of them; `slug` is the reason for which the last one cannot start."""
    return [
        Job(
            name="hello",
            xml=freestyle_xml('echo "hello from $NODE_NAME"; sleep 1', label="linux"),
            result="SUCCESS",
            agents=1,
            console=("hello from demo-",),
        ),
        Job(
            name="greet",
            xml=freestyle_xml('echo "Good morning, $WHOM!"; sleep 0.5', label="linux", parameters={"WHOM": "nobody"}),
            result="SUCCESS",
            agents=1,
            console=("Good morning, Ada!",),
            parameters={"WHOM": "Ada"},
        ),
        Job(
            name="pipeline",
            xml=pipeline_xml(_PIPELINE),
            result="SUCCESS",
            agents=3,
            console=("compiling on demo-", "unit tests on demo-", "browser tests on demo-"),
        ),
        Job(
            name="broken",
            xml=freestyle_xml("echo this is never run", label="broken"),
            result="NOT_BUILT",
            agents=0,
            console=("Launch failed: ", f"({slug})", "What to do: "),
        ),
    ]
