"""How the remote API shows computers, executors and labels."""

# ruff: noqa: ARG005  (every getter takes the object, also those that answer the same for all)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standin.export import Inline, Kind, View
from standin.labels import Label, parse
from standin.nodes import BUILT_IN, Executor, Node, OfflineCause
from standin.shapes import BUILD, JOB, RUN, Of, over
from standin.work import Work

if TYPE_CHECKING:
    from standin.world import World

_MONITORS = [
    "SwapSpaceMonitor",
    "TemporarySpaceMonitor",
    "DiskSpaceMonitor",
    "ArchitectureMonitor",
    "ResponseTimeMonitor",
    "ClockMonitor",
]
LABEL_NAME = Kind(None, {"name": lambda name: name}, frozenset({"name"}))
_LOAD = Kind("hudson.model.Label$1", {})

_CAUSE_OF_OFFLINE = Kind(lambda c: c.cls, {"timestamp": lambda c: c.at_ms, "description": lambda c: c.description})
_CAUSE_WITHOUT_TEXT = Kind(lambda c: c.cls, {"timestamp": lambda c: c.at_ms})


def _offline_cause(of: Of) -> View | None:
    cause: OfflineCause | None = of.it.offline_cause
    if cause is None:
        return None
    return View(_CAUSE_OF_OFFLINE if cause.description is not None else _CAUSE_WITHOUT_TEXT, cause)


def _executable(of: Of) -> View | None:
    executor: Executor = of.it
    work: Work | None = executor.work
    if work is None:
        return None
    if work.kind == "freestyle":
        return over(BUILD, of, work.build)
    return over(_BODY, of, work.build)


_BODY = Kind(
    "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask$PlaceholderExecutable",
    {
        "displayName": lambda of: f"part of {of.it.full_display_name}",
        "estimatedDuration": lambda of: -1,
        "fullDisplayName": lambda of: f"part of {of.it.full_display_name}",
        "number": lambda of: of.it.number,
        "timestamp": lambda of: of.it.started_ms,
        "url": lambda of: of.root + of.it.url,
    },
)

EXECUTOR = Kind(
    None,
    {
        "currentExecutable": _executable,
        "idle": lambda of: of.it.work is None,
        "likelyStuck": lambda of: False,
        "number": lambda of: of.it.number,
        "progress": lambda of: -1,
    },
)
_ONE_OFF = Kind(None, {"currentExecutable": lambda of: over(RUN, of, of.it)})


def _icon(of: Of) -> str:
    node: Node = of.it
    if not node.online:
        return "symbol-computer-offline"
    return "symbol-computer" if node.accepting else "symbol-computer-not-accepting"


def _one_offs(of: Of) -> list[Any]:
    if of.it.name != BUILT_IN:
        return []
    running = [b for j in of.world.jobs.by_name.values() if j.running and j.kind == "run" for b in j.builds.values()]
    return [over(_ONE_OFF, of, b) for b in running if b.building]


def _idle(of: Of) -> bool:
    return of.it.idle and not _one_offs(of)


_COMPUTER_PROPS: dict[str, Any] = {
    "actions": lambda of: [],
    "assignedLabels": lambda of: Inline([View(LABEL_NAME, atom) for atom in of.it.atoms]),
    "description": lambda of: of.it.description,
    "displayName": lambda of: "Built-In Node" if of.it.name == BUILT_IN else of.it.name,
    "executors": lambda of: [over(EXECUTOR, of, e) for e in of.it.executors],
    "icon": _icon,
    "iconClassName": _icon,
    "idle": _idle,
    "jnlpAgent": lambda of: of.it.name != BUILT_IN and of.it.launcher == "hudson.slaves.JNLPLauncher",
    "launchSupported": lambda of: of.it.name == BUILT_IN or of.it.launcher != "hudson.slaves.JNLPLauncher",
    "loadStatistics": lambda of: View(_LOAD, None),
    "manualLaunchAllowed": lambda of: True,
    "monitorData": lambda of: {f"hudson.node_monitors.{m}": None for m in _MONITORS},
    "numExecutors": lambda of: len(of.it.executors),
    "offline": lambda of: not of.it.online,
    "offlineCause": _offline_cause,
    "offlineCauseReason": lambda of: of.it.offline_cause.reason if of.it.offline_cause else "",
    "oneOffExecutors": _one_offs,
    "temporarilyOffline": lambda of: of.it.held is not None,
}
BUILT_IN_COMPUTER = Kind("hudson.model.Hudson$MasterComputer", _COMPUTER_PROPS)
COMPUTER = Kind(
    "hudson.slaves.SlaveComputer",
    {**_COMPUTER_PROPS, "absoluteRemotePath": lambda of: of.it.remote_fs if of.it.link else None},
)


def computer(world: World, root: str, node: Node) -> View:
    return View(BUILT_IN_COMPUTER if node.name == BUILT_IN else COMPUTER, Of(world, root, node))


def _all_nodes(world: World) -> list[Node]:
    return [world.nodes.built_in, *(world.nodes.by_name[name] for name in sorted(world.nodes.by_name))]


COMPUTER_SET = Kind(
    "hudson.model.ComputerSet",
    {
        "busyExecutors": lambda of: sum(not n.idle for n in of.it.values()),
        "computer": lambda of: Inline([computer(of.world, of.root, n) for n in _all_nodes(of.world)]),
        "displayName": lambda of: "Nodes",
        "totalExecutors": lambda of: sum(len(n.executors) for n in of.it.values() if n.online),
    },
)
_NODE = Kind("hudson.slaves.DumbSlave", {"nodeName": lambda n: n.name}, frozenset({"nodeName"}))


def _label_nodes(of: Of) -> list[Node]:
    label: Label = of.it
    return of.world.nodes.matching(label)


def _executors(of: Of) -> list[Executor]:
    return [e for n in _label_nodes(of) if n.online for e in n.executors]


LABEL = Kind(
    lambda of: "hudson.model.labels.LabelAtom" if of.it.atom is not None else "hudson.model.labels.LabelExpression",
    {
        "actions": lambda of: [],
        "busyExecutors": lambda of: sum(e.work is not None for e in _executors(of)),
        "clouds": lambda of: [],
        "description": lambda of: None,
        "idleExecutors": lambda of: sum(e.work is None for e in _executors(of)),
        "loadStatistics": lambda of: View(_LOAD, None),
        "name": lambda of: of.it.shown,
        "nodes": lambda of: [View(_NODE, n) for n in _label_nodes(of)],
        "offline": lambda of: not any(n.online for n in _label_nodes(of)),
        "tiedJobs": lambda of: [
            over(JOB, of, j) for j in of.world.jobs.by_name.values() if j.label and j.label.name == of.it.name
        ],
        "totalExecutors": lambda of: len(_executors(of)),
        "propertiesList": lambda of: [],
    },
)


def label_view(world: World, root: str, text: str) -> View:
    return View(LABEL, Of(world, root, parse(text)))
