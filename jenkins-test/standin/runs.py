"""A Pipeline run: the steps of its script, each `node` body as a queue item of its own."""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from standin import pipeline
from standin.labels import BadExpression, Label, parse
from standin.link import Command, LinkLost
from standin.pipeline import Step, Text
from standin.work import Work, environment

if TYPE_CHECKING:
    from standin.jobs import Build
    from standin.nodes import Executor
    from standin.queue import Item
    from standin.world import World

STILL_WAITING_S = 15.0


class StepFailed(Exception):  # noqa: N818  (it is the script's failure, not ours)
    """A step ended with a message; the run fails with it."""


@dataclass(eq=False, slots=True)
class Block:
    """The queue's task for one `node` step, and the place where its body runs."""

    run: Run
    label: Label | None
    prefix: str
    url: str
    job_name: str
    kind: str = "pipeline"
    item: Item | None = None
    work: Work | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None
    node_name: str = ""

    def blocked_by(self) -> str | None:
        return None

    def start(self, item: Item, executor: Executor | None) -> Build:
        assert executor is not None
        build = self.run.build
        self.node_name = executor.node.name
        if self.work is None:
            self.work = Work(kind="pipeline", item=item, build=build, executor=executor)
            self.run.world.work_started(self.work)
        else:
            self.work.executor = executor
            executor.work = self.work
            self.run.say(self, f"Ready to run at {executor.node.name}")
        self.ready.set()
        return build

    def fail(self, message: str) -> None:
        """End the waiting `node` step with a message."""
        self.failure = message
        self.ready.set()


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a step runs."""

    block: Block | None = None
    workspace: str = ""
    prefix: str = ""


class Run:
    """One run of a Pipeline job."""

    def __init__(self, world: World, build: Build) -> None:
        self.world = world
        self.build = build
        self.blocks: list[Block] = []  # waiting or running

    def start(self) -> None:
        self.build.task = asyncio.get_running_loop().create_task(self._main(), name=self.build.url)

    def say(self, scope: Scope | Block, text: str) -> None:
        self.build.console.line(f"[{scope.prefix}] {text}" if scope.prefix else text)

    async def _main(self) -> None:
        console = self.build.console
        result = "FAILURE"
        try:
            for cause in self.build.causes:
                console.line(cause["shortDescription"])
            steps = pipeline.parse(self.build.job.script)
            console.line("[Pipeline] Start of Pipeline")
            await self._steps(steps, Scope())
            result = "SUCCESS"
            console.line("[Pipeline] End of Pipeline")
        except pipeline.BadScript as error:
            console.line("org.codehaus.groovy.control.MultipleCompilationErrorsException: startup failed:")
            console.line(f"WorkflowScript: {error}")
        except StepFailed as error:
            console.line("[Pipeline] End of Pipeline")
            console.line(f"ERROR: {error}")
        except asyncio.CancelledError:
            if self.world.closing:
                raise
            console.line(f"Aborted by {self.build.stopped_by or 'SYSTEM'}")
            console.line("[Pipeline] End of Pipeline")
            result = "ABORTED"
        finally:
            self.build.finish(result)
            self.build.job.build_over()

    async def _steps(self, steps: list[Step], scope: Scope) -> None:
        for step in steps:
            await self._step(step, scope)

    async def _step(self, step: Step, scope: Scope) -> None:
        self.say(scope, f"[Pipeline] {step.name}")
        match step.name:
            case "node":
                await self._node(step, scope)
            case "sh":
                await self._shell(self._text(step, "script", scope), scope)
            case "sleep":
                seconds = float(str(step.named.get("time", step.args[0] if step.args else 0)))
                self.say(scope, f"Sleeping for {seconds:g} sec")
                await asyncio.sleep(seconds)
            case "echo":
                self.say(scope, self._text(step, "message", scope))
            case "error":
                raise StepFailed(self._text(step, "message", scope))
            case "parallel":
                await self._parallel(step, scope)
            case "catchError":
                await self._catch(step, scope)
            case "retry":
                await self._retry(step, scope)
            case _:  # stage, timeout, timestamps: their body is all there is
                await self._body(step, scope)

    async def _body(self, step: Step, scope: Scope) -> None:
        self.say(scope, "[Pipeline] {")
        try:
            await self._steps(step.body or [], scope)
        finally:
            self.say(scope, "[Pipeline] }")
            self.say(scope, f"[Pipeline] // {step.name}")

    async def _catch(self, step: Step, scope: Scope) -> None:
        try:
            await self._body(step, scope)
        except StepFailed as error:
            self.say(scope, f"ERROR: {error}")

    async def _retry(self, step: Step, scope: Scope) -> None:
        times = int(float(str(step.named.get("count", step.args[0] if step.args else 1))))
        for attempt in range(1, times + 1):
            try:
                await self._body(step, scope)
            except StepFailed as error:
                if attempt == times:
                    raise
                self.say(scope, f"ERROR: {error}")
                self.say(scope, "Retrying")
            else:
                return

    async def _parallel(self, step: Step, scope: Scope) -> None:
        async def branch(name: str, steps: list[Step]) -> None:
            await self._steps(steps, replace(scope, prefix=name))

        tasks = [asyncio.ensure_future(branch(n, s)) for n, s in step.branches.items()]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        self.say(scope, "[Pipeline] // parallel")
        for outcome in ended:
            if isinstance(outcome, StepFailed):
                raise outcome

    async def _node(self, step: Step, scope: Scope) -> None:
        text = self._text(step, "label", scope) if step.args or "label" in step.named else ""
        try:
            label = parse(text) if text else None
        except BadExpression:
            label = Label(text, "atom", (), text)
        block = Block(self, label, scope.prefix, f"{self.build.url}", self.build.job.name)
        self.blocks.append(block)
        block.item = self.world.queue.schedule(block, {}, [])
        try:
            await self._placed(block)
            assert block.work is not None
            assert block.work.executor is not None
            node = block.work.executor.node
            workspace = f"{node.remote_fs}/workspace/{self.build.job.name}"
            self.say(scope, f"Running on {node.name} in {workspace}")
            block.work.failed = True
            await self._body(step, replace(scope, block=block, workspace=workspace))
            block.work.failed = False
        finally:
            self.blocks.remove(block)
            if block.item in self.world.queue.items.values():
                self.world.cancel(block.item)
            if block.work is not None:
                self.world.work_finished(block.work)

    async def _placed(self, block: Block) -> None:
        """Wait for an executor, and say so after a while as Jenkins does."""
        assert block.item is not None
        try:
            async with asyncio.timeout(STILL_WAITING_S):
                await block.ready.wait()
        except TimeoutError:
            self.say(block, "Still waiting to schedule task")
            self.say(block, self.world.why(block.item) or "")
            await block.ready.wait()
        if block.failure is not None:
            raise StepFailed(block.failure)

    async def _shell(self, script: str, scope: Scope) -> None:
        block = scope.block
        if block is None or block.work is None:
            raise StepFailed("Required context class hudson.FilePath is missing")
        write = self._writer(scope)
        command = Command(
            script=script, cwd=scope.workspace, env=self._environment(block, scope), durable=secrets.token_hex(8)
        )
        while True:
            await block.ready.wait()
            if block.failure is not None:
                raise StepFailed(block.failure)
            link = await self.world.link_for(block)
            if link is None:
                raise StepFailed(f"Agent {block.node_name} was deleted; cancelling node body")
            try:
                code = await link.run(command, write)
            except LinkLost:
                continue  # the script goes on; an agent of that name picks it up again
            if code != 0:
                raise StepFailed(f"script returned exit code {code}")
            return

    def _environment(self, block: Block, scope: Scope) -> dict[str, str]:
        number = block.work.executor.number if block.work and block.work.executor else 0
        return environment(self.world, self.build, block.node_name, scope.workspace, number)

    def _writer(self, scope: Scope):  # type: ignore[no-untyped-def]
        if not scope.prefix:
            return self.build.console.write
        rest = ""

        def write(text: str) -> None:
            nonlocal rest
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                self.say(scope, line)

        return write

    def _text(self, step: Step, name: str, scope: Scope) -> str:
        value = step.named.get(name, step.args[0] if step.args else None)
        if value is None:
            raise StepFailed(f"step {step.name} needs {name}")
        if not isinstance(value, Text):
            return f"{value:g}" if isinstance(value, float) else str(value)
        if not value.live:
            return value.value.replace("\0dollar", "$")

        def fill(match: re.Match[str]) -> str:
            where, _, key = (match[1] or match[2]).rpartition(".")
            if where == "env" and key == "NODE_NAME" and scope.block:
                return scope.block.node_name
            if where in ("", "env") and key in ("BUILD_NUMBER", "JOB_NAME"):
                return str(self.build.number if key == "BUILD_NUMBER" else self.build.job.name)
            return self.build.params.get(key, "null")

        return re.sub(r"\$\{([\w.]+)\}|\$(\w+)", fill, value.value).replace("\0dollar", "$")
