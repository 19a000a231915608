"""What an executor does: a freestyle build, or one `node` body of a Pipeline; and what its shell sees."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standin.jobs import Build
    from standin.nodes import Executor
    from standin.queue import Item
    from standin.world import World

_ids = itertools.count(1)


@dataclass(eq=False, slots=True)
class Work:
    """One task on one executor. `executor` is None while a Pipeline body waits to go on after a restart."""

    kind: str  # freestyle | pipeline
    item: Item
    build: Build
    executor: Executor | None
    failed: bool = False
    record: dict[str, Any] = field(default_factory=dict)  # its line in the history
    id: int = field(default_factory=lambda: next(_ids))


def environment(world: World, build: Build, node_name: str, workspace: str, executor: int) -> dict[str, str]:
    """The variables a build's shell sees."""
    values: dict[str, Any] = {
        **build.params,
        "BUILD_NUMBER": build.number,
        "BUILD_ID": build.number,
        "BUILD_TAG": f"jenkins-{build.job.name.replace('/', '-')}-{build.number}",
        "BUILD_URL": f"{world.url}{build.url}",
        "JOB_NAME": build.job.name,
        "JOB_URL": f"{world.url}{build.job.url}",
        "JENKINS_URL": world.url,
        "NODE_NAME": node_name,
        "EXECUTOR_NUMBER": executor,
        "WORKSPACE": workspace,
    }
    return {key: str(value) for key, value in values.items()}
