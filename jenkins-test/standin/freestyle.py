"""A freestyle build: its shell steps on one executor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from standin.link import Command, LinkLost
from standin.work import Work, environment

if TYPE_CHECKING:
    from standin.jobs import Build
    from standin.nodes import Executor
    from standin.queue import Item
    from standin.world import World


def start(world: World, build: Build, item: Item, executor: Executor) -> None:
    """Put the build on the executor; returns at once."""
    build.built_on = executor.node.name
    work = Work(kind="freestyle", item=item, build=build, executor=executor)
    for cause in item.causes:
        build.console.line(cause["shortDescription"])
    build.console.line("Running as SYSTEM")
    world.work_started(work)
    build.task = asyncio.get_running_loop().create_task(_run(world, build, work), name=build.url)


async def _run(world: World, build: Build, work: Work) -> None:
    assert work.executor is not None
    node = work.executor.node
    result = "FAILURE"
    try:
        workspace = f"{node.remote_fs}/workspace/{build.job.name}"
        labels = " ".join(sorted(node.atoms - {node.name}))
        where = f"{node.name} ({labels})" if labels else node.name
        build.console.line(f"Building remotely on {where} in workspace {workspace}")
        env = environment(world, build, node.name, workspace, work.executor.number)
        result = "SUCCESS"
        for number, script in enumerate(build.job.commands):
            build.console.line(f"[{build.job.name.rsplit('/', 1)[-1]}] $ /bin/sh -xe {node.remote_fs}/step{number}.sh")
            if node.link is None:
                raise LinkLost(node.name)
            command = Command(script=script, cwd=workspace, env=env)
            if await node.link.run(command, build.console.write) != 0:
                build.console.line("Build step 'Execute shell' marked build as failure")
                result = "FAILURE"
                break
    except LinkLost:
        build.console.line("FATAL: command execution failed")
        build.console.line(f"Caused: java.io.IOException: Backing channel '{node.name}' is disconnected.")
        build.console.line("Build step 'Execute shell' marked build as failure")
        result = "FAILURE"
    except asyncio.CancelledError:
        if not build.building or world.closing:
            raise
        if build.stopped_by:
            build.console.line("Build was aborted")
            build.console.line(f"Aborted by {build.stopped_by}")
        result = "ABORTED"
    finally:
        work.failed = result != "SUCCESS"
        if world.bridge:
            world.bridge.before_end(work)
        if build.building:
            build.finish(result)
        build.job.build_over()
        world.work_finished(work)
