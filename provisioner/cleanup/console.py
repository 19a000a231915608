"""Static nodes through the script console: one step under the controller's own lock, which a saved form takes too.

Only for an account with Administer. What stays in the controller until its restart is the guard: it bars a node that
was used since its cleaning from builds that need a clean one, at once and not only at the next look.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from provisioner.cleanup.labels import split_labels
from provisioner.cleanup.nodes import TRIES, Guard, LabelChange
from provisioner.controller.rest import Rest
from provisioner.controller.script_console import MARK, packed, said
from provisioner.model.errors import ControllerError

_SCRIPT_S = 150.0  # a controller that has just started, with much to do, takes its time to compile a script

_FRAME = """
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import hudson.model.Queue
import jenkins.model.Jenkins
import java.util.concurrent.Callable

def ask = new JsonSlurper().parseText(new String('{ask}'.decodeBase64(), 'UTF-8'))
def jenkins = Jenkins.get()
def idleSince = {{ computer -> computer == null || !computer.idle ? null : computer.idleStartMilliseconds }}
def work = {{ ->
{work}
}}
println '{mark}' + JsonOutput.toJson(Queue.withLock(work as Callable))
"""

#: The guard's classes, appended to a step that puts it in.
GUARD = Path(__file__).with_name("guard.groovy").read_text(encoding="utf-8")
#: Changes with the guard's text, so that a newer one takes the place of an older.
GUARD_VERSION = hashlib.sha256(GUARD.encode()).hexdigest()[:12]

#: In a step: `guard`, or null where there is none.
FIND_GUARD = """
def dispatchers = jenkins.getExtensionList(hudson.model.queue.QueueTaskDispatcher)
def guard = dispatchers.find { it.class.simpleName == 'ProvisionerCleanGuard' }
"""

#: A step that needs the guard, in its present form, begins with this; see `run_guarded`.
NEEDS_GUARD = FIND_GUARD + "\nif (guard?.version != ask.version) return [code: 'no guard']\n"
_INSTALL = "ProvisionerCleanInstaller.guard(ask.version)\nreturn [code: 'done']"

_WATCH = (
    NEEDS_GUARD
    + """
def before = guard.wards[ask.job]
def marks = [:]
jenkins.nodes.each { node ->
    def labels = hudson.model.Label.parse(node.labelString)*.name
    def name = node.nodeName
    if (!ask.marking || name in ask.skipped || !(ask.cleanable in labels) || !(ask.clean in labels)) return
    // what the others know may be newer than what this scheduler has read: no mark moves back, but to what is so now
    def kept = before?.marks?.get(name), told = ask.marks[name] as Long
    if (kept == null && told == null) return
    def same = kept == null || told == null || told == idleSince(node.toComputer())
    marks[name] = same ? (told != null ? told : kept) : Math.max(kept, told)
}
// read without a lock by the queue: put in whole
guard.wards = guard.wards + [(ask.job): [clean: ask.clean, marks: marks, cared: ask.names as Set]]
return [code: 'done', idle: ask.names.collectEntries { name -> [name, idleSince(jenkins.getComputer(name))] }]
"""
)

_IDLE = "ask.names.collectEntries { name -> [name, idleSince(jenkins.getComputer(name))] }"

# The node is replaced, as by a saved form. Setting its labels and saving it is not enough: the label objects keep
# their old nodes (seen on 2.460; in part JENKINS-68155), and builds that ask for `clean` still come, or never do.
_RELABEL = (
    FIND_GUARD
    + """
def node = jenkins.getNode(ask.name)
if (node == null) return [code: 'gone']
if (node.labelString != ask.from) return [code: 'changed', labels: node.labelString]
if (ask.idle != null && idleSince(node.toComputer()) != ask.idle) return [code: 'used']
if (ask.to != ask.from) {
    def changed = Jenkins.XSTREAM.fromXML(Jenkins.XSTREAM.toXML(node))
    changed.labelString = ask.to
    if (!jenkins.nodesObject.replaceNode(node, changed)) return [code: 'changed', labels: node.labelString]
    // before the queue looks again
    def ward = guard?.wards?.get(ask.ward)
    if (ward != null) {
        def marks = new HashMap(ward.marks)
        if (ask.mark == null) marks.remove(ask.name) else marks.put(ask.name, ask.mark as Long)
        guard.wards = guard.wards + [(ask.ward): ward + [marks: marks]]
    }
    jenkins.queue.scheduleMaintenance()
}
return [code: 'done']
"""
)

_HOLD = """
def computer = jenkins.getComputer(ask.name)
if (computer == null || computer.temporarilyOffline) return [code: 'no']
computer.setTemporarilyOffline(true, new hudson.slaves.OfflineCause.UserCause(hudson.model.User.current(), ask.reason))
return [code: 'done']
"""

_RELEASE = """
def computer = jenkins.getComputer(ask.name)
if (computer == null || !computer.temporarilyOffline || computer.offlineCauseReason != ask.reason) return [code: 'no']
computer.setTemporarilyOffline(false, null)
return [code: 'done']
"""

_DESCRIBE = """
def build = jenkins.getItemByFullName(ask.job)?.getBuildByNumber(ask.number)
if (build == null) return [code: 'gone']
if ((build.description ?: '') != ask.from) return [code: 'changed']
build.description = ask.to
return [code: 'done']
"""


class ScriptHands:
    """See `nodes.Hands`."""

    def __init__(self, http: Rest, job: str) -> None:
        self._http = http
        self._job = job

    def idle_since_ms(self, names: Collection[str], guard: Guard | None) -> Mapping[str, int]:
        """When the last build of each idle node ended; a node that reconnected begins anew, as if it had been used."""
        if guard is None:
            found = self._run(_IDLE, {"names": sorted(names)})
        else:
            ask = {
                "names": sorted(names),
                "job": self._job,
                "cleanable": guard.cleanable,
                "clean": guard.clean,
                "marking": guard.marking,
                "marks": dict(guard.marks),
                "skipped": sorted(guard.skipped),
            }
            found = run_guarded(self._http, _WATCH, ask)["idle"]
        # a computer without executors tells a number before all times
        return {name: int(at) for name, at in found.items() if isinstance(at, int) and at > 0}

    def relabel(self, name: str, change: LabelChange, *, idle_since_ms: int | None = None) -> bool:
        """Compare and set."""
        text = ""
        found = self._relabel(name, text, text, None, None)
        for _ in range(TRIES):
            if found["code"] == "changed":
                text = str(found["labels"])
            if not change.still_fits(text):
                return False
            mark = idle_since_ms if change.guarded else None
            found = self._relabel(name, text, change.made(text), idle_since_ms, mark)
            if found["code"] != "changed":
                return bool(found["code"] == "done" and change.add in split_labels(change.made(text)))
        raise ControllerError(f"node {name}: its labels were changed by others {TRIES} times in a row", retryable=True)

    def hold(self, name: str, reason: str) -> bool:
        """Take the node offline, unless somebody did."""
        return bool(self._run(_HOLD, {"name": name, "reason": reason})["code"] == "done")

    def release(self, name: str, reason: str) -> bool:
        """Bring it back, if it is offline for just that reason."""
        return bool(self._run(_RELEASE, {"name": name, "reason": reason})["code"] == "done")

    def describe(self, job: str, number: int, before: str | None, after: str) -> bool:
        """Compare and set."""
        ask = {"job": job, "number": number, "from": before or "", "to": after}
        code = self._run(_DESCRIBE, ask)["code"]
        if code == "gone":
            raise ControllerError(f"build {number} of job {job} is gone; nothing can be written there", code=404)
        return bool(code == "done")

    def _relabel(
        self, name: str, before: str, after: str, idle_since_ms: int | None, mark: int | None
    ) -> dict[str, Any]:
        ask: dict[str, object] = {
            "name": name,
            "from": before,
            "to": after,
            "idle": idle_since_ms,
            "mark": mark,
            "ward": self._job,
        }
        found = self._run(_RELABEL, ask)
        if found["code"] == "gone":
            raise ControllerError(f"node {name} is gone; nothing is left to do for it", code=404)
        return found

    def _run(self, work: str, ask: Mapping[str, object]) -> dict[str, Any]:
        return run_script(self._http, work, ask)


def run_guarded(http: Rest, work: str, ask: Mapping[str, object]) -> dict[str, Any]:
    """A step that begins with `NEEDS_GUARD`. Its classes, which are dear to compile, are sent only when it is missing.

    Args:
        http: the controller.
        work: the step.
        ask: what it is to know, besides the guard's version.

    Raises:
        ControllerError: as of `run_script`.
    """
    ask = {**ask, "version": GUARD_VERSION}
    found = run_script(http, work, ask)
    if found.get("code") == "no guard":
        run_script(http, _INSTALL, ask, GUARD)
        found = run_script(http, work, ask)
    return found


def run_script(http: Rest, work: str, ask: Mapping[str, object], classes: str = "") -> dict[str, Any]:
    """What a script says that runs under the queue's lock, which a saved form takes too.

    Args:
        http: the controller.
        work: Groovy; it has `jenkins`, `ask` and `idleSince`, and returns a map.
        ask: what it is told; text stays text and never becomes code.
        classes: Groovy classes that it uses.

    Raises:
        ControllerError: it could not be run, or it failed.
    """
    script = _FRAME.format(ask=packed(ask), work=work, mark=MARK) + classes
    text = http.script(script, timeout_s=max(_SCRIPT_S, http.timeout_s))
    words = said(text)
    if words is None:
        problem = " ".join(line.strip() for line in text.partition("\n\tat ")[0].splitlines()) or "it says nothing"
        raise ControllerError(f"controller {http.name}: the script console failed: {problem[:400]}")
    found = json.loads(words)
    return found if isinstance(found, dict) else {}
