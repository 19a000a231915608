"""How the remote API shows items, jobs and builds: class names, properties and their order."""

# ruff: noqa: ARG005  (every getter takes the object, also those that answer the same for all)

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

from standin.export import Inline, Kind, View
from standin.jobs import Build, Job
from standin.queue import Item, Phase

if TYPE_CHECKING:
    from standin.world import World


class Of(NamedTuple):
    """An object with the request's view of the world: addresses in answers are as the client wrote them."""

    world: World
    root: str
    it: Any


def over(kind: Kind, of: Of, it: Any) -> View | None:
    return None if it is None else View(kind, Of(of.world, of.root, it))


_PARAMETER = Kind(
    "hudson.model.StringParameterValue",
    {"name": lambda p: p[0], "value": lambda p: p[1]},
    frozenset({"name", "value"}),
)
_PARAMETERS = Kind(
    "hudson.model.ParametersAction",
    {"parameters": lambda params: Inline([View(_PARAMETER, p) for p in params.items()])},
    frozenset({"parameters"}),
)
_CAUSE = Kind(
    "hudson.model.Cause$UserIdCause",
    {k: operator.itemgetter(k) for k in ("shortDescription", "userId", "userName")},
    frozenset({"shortDescription", "userId", "userName"}),
)
_CAUSES = Kind(
    "hudson.model.CauseAction",
    {"causes": lambda causes: Inline([View(_CAUSE, c) for c in causes])},
    frozenset({"causes"}),
)


def _actions(params: Any, causes: Any) -> list[View]:
    actions = [View(_PARAMETERS, params)] if params else []
    return [*actions, View(_CAUSES, causes)] if causes else actions


# --- queue ---

_TASK_SHOWN = frozenset({"name", "url", "color"})
_PLACEHOLDER = Kind(
    "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask",
    {
        "fullDisplayName": lambda of: f"part of {of.it.run.build.full_display_name}",
        "name": lambda of: f"part of {of.it.run.build.full_display_name}",
        "url": lambda of: of.it.url,  # alone among addresses it is relative
    },
)


def _task(of: Of) -> View | None:
    task = of.it.task
    return over(JOB if isinstance(task, Job) else _PLACEHOLDER, of, task)


def _item_class(of: Of) -> str:
    names = {
        Phase.WAITING: "WaitingItem",
        Phase.BLOCKED: "BlockedItem",
        Phase.BUILDABLE: "BuildableItem",
        Phase.LEFT: "LeftItem",
    }
    return f"hudson.model.Queue${names[of.it.phase]}"


_ITEM_PROPS: dict[str, Any] = {
    "actions": lambda of: _actions(of.it.params, of.it.causes),
    "blocked": lambda of: of.it.phase is Phase.BLOCKED,
    "buildable": lambda of: of.it.phase is Phase.BUILDABLE,
    "id": lambda of: of.it.id,
    "inQueueSince": lambda of: of.it.since_ms,
    "params": lambda of: "".join(f"\n{k}={v}" for k, v in of.it.params.items()),
    "stuck": lambda of: of.world.stuck(of.it),
    "task": _task,
    "url": lambda of: f"queue/item/{of.it.id}/",
    "why": lambda of: of.world.why(of.it),
}


def _outcome(of: Of) -> View | None:
    build = of.it.executable
    if build is None:
        return None
    return over(BUILD if build.run is None else RUN, of, build)


_ITEM_SHOWN = frozenset(set(_ITEM_PROPS) - {"actions"})
_WAITING = Kind(_item_class, {**_ITEM_PROPS, "timestamp": lambda of: of.it.due_ms}, _ITEM_SHOWN | {"timestamp"})
_BLOCKED = Kind(_item_class, {**_ITEM_PROPS, "buildableStartMilliseconds": lambda of: of.it.buildable_ms}, _ITEM_SHOWN)
_BUILDABLE = Kind(
    _item_class,
    {
        **_ITEM_PROPS,
        "buildableStartMilliseconds": lambda of: of.it.buildable_ms,
        "pending": lambda of: False,
    },
    _ITEM_SHOWN | {"buildableStartMilliseconds", "pending"},
)
_LEFT = Kind(_item_class, {**_ITEM_PROPS, "cancelled": lambda of: of.it.cancelled, "executable": _outcome}, _ITEM_SHOWN)
_ITEM_KINDS = {Phase.WAITING: _WAITING, Phase.BLOCKED: _BLOCKED, Phase.BUILDABLE: _BUILDABLE, Phase.LEFT: _LEFT}


def item(world: World, root: str, it: Item) -> View:
    return View(_ITEM_KINDS[it.phase], Of(world, root, it))


def _queue_items(of: Of) -> Inline:
    items = list(of.it.items.values())
    waiting = [i for i in items if i.phase is not Phase.BUILDABLE]
    buildable = [i for i in items if i.phase is Phase.BUILDABLE]
    return Inline([item(of.world, of.root, i) for i in (*waiting, *reversed(buildable))])


QUEUE = Kind("hudson.model.Queue", {"discoverableItems": lambda of: [], "items": _queue_items})

# --- builds ---


def _built_actions(of: Of) -> list[View]:
    return [*_actions(of.it.params, of.it.causes), View(Kind(None, {}), None)]


_BUILD_PROPS: dict[str, Any] = {
    "actions": _built_actions,
    "artifacts": lambda of: [],
    "building": lambda of: of.it.building,
    "description": lambda of: of.it.description,
    "displayName": lambda of: f"#{of.it.number}",
    "duration": lambda of: of.it.duration_ms,
    "estimatedDuration": lambda of: of.it.duration_ms or -1,
    "executor": lambda of: {} if of.it.building else None,
    "fullDisplayName": lambda of: of.it.full_display_name,
    "id": lambda of: str(of.it.number),
    "inProgress": lambda of: of.it.building,
    "keepLog": lambda of: False,
    "number": lambda of: of.it.number,
    "queueId": lambda of: of.it.queue_id,
    "result": lambda of: of.it.result,
    "timestamp": lambda of: of.it.started_ms,
    "url": lambda of: of.root + of.it.url,
}
BUILD = Kind(
    "hudson.model.FreeStyleBuild",
    {
        **_BUILD_PROPS,
        "builtOn": lambda of: of.it.built_on,
        "changeSet": lambda of: {"_class": "hudson.scm.EmptyChangeLogSet", "items": [], "kind": None},
        "culprits": lambda of: [],
    },
    frozenset({"number", "url"}),
)
RUN = Kind(
    "org.jenkinsci.plugins.workflow.job.WorkflowRun",
    {
        **_BUILD_PROPS,
        "changeSets": lambda of: [],
        "culprits": lambda of: [],
        "nextBuild": lambda of: None,
        "previousBuild": lambda of: None,
    },
    frozenset({"number", "url"}),
)


def build(world: World, root: str, it: Build) -> View:
    return View(BUILD if it.run is None and it.job.kind == "freestyle" else RUN, Of(world, root, it))


# --- jobs ---


def _job_class(of: Of) -> str:
    return {
        "freestyle": "hudson.model.FreeStyleProject",
        "run": "org.jenkinsci.plugins.workflow.job.WorkflowJob",
        "folder": "com.cloudbees.hudson.plugins.folder.Folder",
    }[of.it.kind]


def _own_item(of: Of) -> Item | None:
    return next((i for i in of.world.queue.items.values() if i.task is of.it), None)


def _queue_item(of: Of) -> View | None:
    found = _own_item(of)
    return None if found is None else item(of.world, of.root, found)


def _pick(*results: str | None, any_of: bool = True):  # type: ignore[no-untyped-def]
    def getter(of: Of) -> View | None:
        for number in sorted(of.it.builds, reverse=True):
            found: Build = of.it.builds[number]
            if any_of or found.result in results:
                return build(of.world, of.root, found)
        return None

    return getter


def _first(of: Of) -> View | None:
    return build(of.world, of.root, of.it.builds[min(of.it.builds)]) if of.it.builds else None


_ENDED = ("SUCCESS", "FAILURE", "ABORTED", "NOT_BUILT", "UNSTABLE")
_DEFINITION = Kind(
    "hudson.model.StringParameterDefinition",
    {
        "defaultParameterValue": lambda p: View(_PARAMETER, p),
        "description": lambda p: None,
        "name": lambda p: p[0],
        "type": lambda p: "StringParameterDefinition",
    },
    frozenset({"defaultParameterValue", "description", "name", "type"}),
)
_DEFINITIONS = Kind(
    "hudson.model.ParametersDefinitionProperty",
    {"parameterDefinitions": lambda defaults: Inline([View(_DEFINITION, p) for p in defaults.items()])},
    frozenset({"parameterDefinitions"}),
)


def _definitions(of: Of) -> list[View]:
    return [View(_DEFINITIONS, of.it.defaults)] if of.it.defaults else []


_JOB_PROPS: dict[str, Any] = {
    "actions": _definitions,
    "description": lambda of: of.it.description,
    "displayName": lambda of: of.it.name.rsplit("/", 1)[-1],
    "displayNameOrNull": lambda of: None,
    "fullDisplayName": lambda of: of.it.display,
    "fullName": lambda of: of.it.name,
    "name": lambda of: of.it.name.rsplit("/", 1)[-1],
    "url": lambda of: of.root + of.it.url,
    "buildable": lambda of: not of.it.disabled,
    "builds": lambda of: [build(of.world, of.root, of.it.builds[n]) for n in sorted(of.it.builds, reverse=True)],
    "color": lambda of: of.it.color,
    "firstBuild": _first,
    "healthReport": lambda of: [],
    "inQueue": lambda of: _own_item(of) is not None,
    "keepDependencies": lambda of: False,
    "lastBuild": _pick(),
    "lastCompletedBuild": _pick(*_ENDED, any_of=False),
    "lastFailedBuild": _pick("FAILURE", any_of=False),
    "lastStableBuild": _pick("SUCCESS", any_of=False),
    "lastSuccessfulBuild": _pick("SUCCESS", "UNSTABLE", any_of=False),
    "lastUnstableBuild": _pick("UNSTABLE", any_of=False),
    "lastUnsuccessfulBuild": _pick("FAILURE", "ABORTED", "NOT_BUILT", "UNSTABLE", any_of=False),
    "nextBuildNumber": lambda of: of.it.next_number,
    "property": _definitions,
    "queueItem": _queue_item,
    "concurrentBuild": lambda of: of.it.concurrent,
    "disabled": lambda of: of.it.disabled,
    "labelExpression": lambda of: of.it.label_text,
}
_ALL_BUILDS = {"allBuilds": _JOB_PROPS["builds"]}
JOB = Kind(_job_class, _JOB_PROPS, _TASK_SHOWN, _ALL_BUILDS)
PIPELINE_JOB = Kind(
    _job_class,
    {
        **{k: v for k, v in _JOB_PROPS.items() if k not in ("disabled", "labelExpression")},
        "resumeBlocked": lambda of: False,
    },
    _TASK_SHOWN,
    _ALL_BUILDS,
)
FOLDER = Kind(
    _job_class,
    {
        **{k: _JOB_PROPS[k] for k in ("actions", "description", "displayName", "fullName", "name", "url")},
        "jobs": lambda of: [job(of.world, of.root, j) for j in of.world.jobs.children(of.it.name)],
    },
    frozenset({"name", "url"}),
)


def job(world: World, root: str, it: Job) -> View:
    kind = {"run": PIPELINE_JOB, "folder": FOLDER}.get(it.kind, JOB)
    return View(kind, Of(world, root, it))
