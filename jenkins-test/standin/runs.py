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
    """A step ended with a message; the run fails with it, or is aborted."""

    aborted = False


@dataclass(eq=False, slots=True)
class Block:
    """The queue's task for one `node` step, and the place where its body runs."""

    run: Run
    label: Label | None
    url: str
    job_name: str
    kind: str = "pipeline"
    item: Item | None = None
    work: Work | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failure: StepFailed | None = None
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
            self.run.say(f"Ready to run at {executor.node.name}")
        self.ready.set()
        return build

    def fail(self, message: str, *, aborted: bool = False) -> None:
        """End the waiting `node` step, or the body, with a message."""
        self.failure = StepFailed(message)
        self.failure.aborted = aborted
        self.ready.set()


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a step runs."""

    block: Block | None = None
    workspace: str = ""


class Run:
    """One run of a Pipeline job."""

    def __init__(self, world: World, build: Build) -> None:
        self.world = world
        self.build = build
        self.blocks: list[Block] = []  # waiting or running
        self.caught: dict[str, StepFailed] = {}  # by the name that the script gave it
        self.result = "SUCCESS"  # of a script that comes to its end
        self._stop_told = False

    def start(self) -> None:
        self.build.task = asyncio.get_running_loop().create_task(self._main(), name=self.build.url)

    def say(self, text: str) -> None:
        self.build.console.line(text)

    async def _main(self) -> None:
        console = self.build.console
        result = "FAILURE"
        try:
            for cause in self.build.causes:
                console.line(cause["shortDescription"])
            steps = pipeline.parse(self.build.job.script)
            console.line("[Pipeline] Start of Pipeline")
            await self._steps(steps, Scope())
            result = self.result
            console.line("[Pipeline] End of Pipeline")
        except pipeline.BadScript as error:
            console.line("org.codehaus.groovy.control.MultipleCompilationErrorsException: startup failed:")
            console.line(f"WorkflowScript: {error}")
        except StepFailed as error:
            console.line("[Pipeline] End of Pipeline")
            console.line(str(error) if error.aborted else f"ERROR: {error}")
            result = "ABORTED" if error.aborted else "FAILURE"
        except asyncio.CancelledError:
            if self.world.closing:
                raise
            self._tell_stop()
            console.line("[Pipeline] End of Pipeline")
            result = "ABORTED"
        finally:
            self.build.finish(result)
            self.build.job.build_over()

    def _tell_stop(self) -> None:
        if not self._stop_told:
            self._stop_told = True
            self.say(f"Aborted by {self.build.stopped_by or 'SYSTEM'}")

    async def _steps(self, steps: list[Step], scope: Scope) -> None:
        for step in steps:
            await self._step(step, scope)

    async def _step(self, step: Step, scope: Scope) -> None:
        if step.name not in ("try", "throw"):  # the language's own; all else is a step
            self.say(f"[Pipeline] {step.name}")
        match step.name:
            case "node":
                await self._node(step, scope)
            case "sh":
                await self._shell(self._text(step, "script", scope), scope)
            case "sleep":
                seconds = float(str(step.named.get("time", step.args[0] if step.args else 0)))
                self.say(f"Sleeping for {seconds:g} sec")
                await asyncio.sleep(seconds)
            case "echo":
                self.say(self._text(step, "message", scope))
            case "try":
                await self._try(step, scope)
            case "throw":
                raise self.caught.get(str(step.named["name"]), StepFailed("nothing was caught"))
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
        name = self._text(step, "name", scope) if step.name == "stage" else ""
        self.say(f"[Pipeline] {{ ({name})" if name else "[Pipeline] {")
        try:
            await self._steps(step.body or [], scope)
        finally:
            self.say("[Pipeline] }")
            if step.name not in ("node", "catchError"):  # they have more to say before
                self.say(f"[Pipeline] // {step.name}")

    async def _catch(self, step: Step, scope: Scope) -> None:
        try:
            await self._body(step, scope)
        except StepFailed as error:
            if error.aborted:
                raise
            self.say(f"ERROR: {error}")
            self.say("Setting overall build result to FAILURE")
            self.result = "FAILURE"
        finally:
            self.say("[Pipeline] // catchError")

    async def _try(self, step: Step, scope: Scope) -> None:
        try:
            await self._steps(step.body or [], scope)
        except StepFailed as error:
            if "catch" not in step.branches:
                raise
            self.caught[str(step.named["name"])] = error
            await self._steps(step.branches["catch"], scope)
        finally:
            await self._steps(step.branches.get("finally", []), scope)

    async def _retry(self, step: Step, scope: Scope) -> None:
        times = int(float(str(step.named.get("count", step.args[0] if step.args else 1))))
        for attempt in range(1, times + 1):
            try:
                await self._body(step, scope)
            except StepFailed as error:
                if attempt == times or error.aborted:
                    raise
                self.say(f"ERROR: {error}")
                self.say("Retrying")
            else:
                return

    async def _parallel(self, step: Step, scope: Scope) -> None:
        async def branch(name: str, steps: list[Step]) -> None:
            self.say(f"[Pipeline] {{ (Branch: {name})")
            try:
                await self._steps(steps, scope)
            finally:
                self.say("[Pipeline] }")

        tasks = [asyncio.ensure_future(branch(n, s)) for n, s in step.branches.items()]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        self.say("[Pipeline] // parallel")
        for outcome in ended:
            if isinstance(outcome, StepFailed):
                raise outcome

    async def _node(self, step: Step, scope: Scope) -> None:
        text = self._text(step, "label", scope) if step.args or "label" in step.named else ""
        try:
            label = parse(text) if text else None
        except BadExpression:
            label = Label(text, "atom", (), text)
        block = Block(self, label, self.build.url, self.build.job.name)
        self.blocks.append(block)
        block.item = self.world.queue.schedule(block, {}, [])
        try:
            await self._placed(block)
            assert block.work is not None
            assert block.work.executor is not None
            node = block.work.executor.node
            workspace = f"{node.remote_fs}/workspace/{self.build.job.name}"
            self.say(f"Running on {node.name} in {workspace}")
            block.work.failed = True
            await self._body(step, replace(scope, block=block, workspace=workspace))
            block.work.failed = False
        finally:
            self.say("[Pipeline] // node")
            self.blocks.remove(block)
            if self.world.queue.items.get(block.item.id) is block.item:
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
            self.say("Still waiting to schedule task")
            self.say(self.world.why(block.item) or "")
            await block.ready.wait()
        if block.failure is not None:
            raise block.failure

    async def _shell(self, script: str, scope: Scope) -> None:
        block = scope.block
        if block is None or block.work is None:
            raise StepFailed("Required context class hudson.FilePath is missing")
        write = self.build.console.write
        command = Command(
            script=script, cwd=scope.workspace, env=self._environment(block, scope), durable=secrets.token_hex(8)
        )
        while True:
            await block.ready.wait()
            if block.failure is not None:
                raise block.failure
            link = await self.world.link_for(block)
            if block.failure is not None:
                raise block.failure
            if link is None:
                raise StepFailed(f"Agent {block.node_name} was deleted; cancelling node body")
            try:
                code = await link.run(command, write)
            except asyncio.CancelledError:
                self._tell_stop()
                for line in ("Sending interrupt signal to process", "Terminated", "script returned exit code 143"):
                    self.say(line)
                raise
            except LinkLost:
                continue  # the script goes on; an agent of that name picks it up again
            if code != 0:
                raise StepFailed(f"script returned exit code {code}")
            return

    def _environment(self, block: Block, scope: Scope) -> dict[str, str]:
        number = block.work.executor.number if block.work and block.work.executor else 0
        return environment(self.world, self.build, block.node_name, scope.workspace, number)

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
            if where in self.caught and key == "message":
                return str(self.caught[where])
            if where in ("", "env") and key in ("BUILD_NUMBER", "JOB_NAME"):
                return str(self.build.number if key == "BUILD_NUMBER" else self.build.job.name)
            return self.build.params.get(key, "null")

        return re.sub(r"\$\{([\w.]+)\}|\$(\w+)", fill, value.value).replace("\0dollar", "$")
