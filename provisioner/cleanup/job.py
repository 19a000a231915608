"""The cleanup job: its builds and queue items by the node they are for, and what is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.cleanup.facts import Cleaning, Queued
from provisioner.cleanup.nodes import job_path
from provisioner.controller.rest import Rest
from provisioner.model.errors import ControllerError

#: The job's parameter that names the node.
PARAMETER = "NODE"
#: An item stays this long in the queue before it may begin. Jenkins makes one item of two with the same parameters
#: as long as both are in the queue: whoever looked and saw none, and asks within this time, asks for the same one.
QUIET_S = 5
#: What was seen may be this old when a cleaning is asked for, and the asking may take this long.
FRESH_S = 2.0
ASK_S = 2.5

_PARAMETERS = "actions[parameters[name,value,label]]"
_BUILDS = f"number,url,queueId,result,building,timestamp,duration,description,builtOn,{_PARAMETERS}"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFacts:
    """The job's builds by node, newest first, and its queue items, oldest first."""

    url: str  # as the controller writes it
    builds: Mapping[str, Sequence[Cleaning]]
    queued: Mapping[str, Sequence[Queued]]


class CleanupJob:
    """One job of one controller."""

    def __init__(self, http: Rest, name: str) -> None:
        self._http = http
        self.name = name
        self._path = job_path(name)

    def read(self, most: int) -> JobFacts:
        """Its newest builds, and what waits to begin.

        Args:
            most: how many builds.

        Raises:
            ControllerError: there is no such job, or it cannot be used for this.
        """
        # the queue first: an item that has left it by then is a build below, never nothing
        tree = f"items[id,inQueueSince,buildable,why,task[url],{_PARAMETERS}]"
        items = self._http.get(f"queue/api/json?tree={tree}", op="cleanup")["items"]
        tree = f"url,buildable,property[parameterDefinitions[name]],allBuilds[{_BUILDS}]{{0,{most}}}"
        try:
            job = self._http.get(f"{self._path}api/json?tree={tree}", op="cleanup")
        except ControllerError as error:
            if error.code != 404:
                raise
            raise ControllerError(
                f"controller {self._http.name}: there is no job {self.name} for cleaning, or the account may not see"
                " it; docs/cleanup.md has one to copy",
                code=404,
            ) from error
        self._check(job)
        builds: dict[str, list[Cleaning]] = {}
        for build in sorted(job.get("allBuilds") or (), key=lambda b: -int(b["number"])):
            if node := _node_of(build.get("actions")):
                builds.setdefault(node, []).append(_cleaning(build))
        # one that began in between is here and there
        begun = {build.get("queueId") for build in job.get("allBuilds") or ()}
        queued: dict[str, list[Queued]] = {}
        for item in sorted(items, key=lambda i: int(i["id"])):
            node = _node_of(item.get("actions"))
            if node and item["id"] not in begun and (item.get("task") or {}).get("url") == job["url"]:
                queued.setdefault(node, []).append(_queued(item))
        return JobFacts(url=str(job["url"]), builds=builds, queued=queued)

    def _check(self, job: Mapping[str, Any]) -> None:
        known = {d["name"] for p in job.get("property") or () for d in p.get("parameterDefinitions") or ()}
        if PARAMETER not in known:
            raise ControllerError(
                f"job {self.name} has no parameter {PARAMETER}; give it one, and let it run on that node", code=400
            )
        if not job.get("buildable"):
            raise ControllerError(f"job {self.name} is disabled; enable it", code=400)

    def start(self, node: str) -> None:
        """Ask for a cleaning; one that waits already is joined."""
        path = f"{self._path}buildWithParameters?delay={QUIET_S}sec"
        # 302: it leads to the item that was there already
        self._http.call("POST", path, op="clean", form={PARAMETER: node}, timeout_s=ASK_S, expect=(201, 302))

    def stop(self, cleaning: Cleaning) -> None:
        """End a running build; one that has ended is left alone."""
        self._http.call("POST", f"{self._path}{cleaning.number}/stop", op="clean", expect=(200, 302, 404))

    def cancel(self, queue_id: int) -> None:
        """Take an item out of the queue; gone already is done."""
        self._http.call("POST", f"queue/cancelItem?id={queue_id}", op="clean", expect=(204, 302, 404, 500))

    def description(self, cleaning: Cleaning) -> str | None:
        """The build's description now."""
        found = self._http.get(f"{self._path}{cleaning.number}/api/json?tree=description", op="cleanup")
        text = found.get("description")
        return None if text is None else str(text)


def _queued(item: Mapping[str, Any]) -> Queued:
    return Queued(
        queue_id=int(item["id"]),
        since_ms=int(item["inQueueSince"]),
        buildable=bool(item.get("buildable")),
        why=" ".join(str(item.get("why") or "").split()),
    )


def _cleaning(build: Mapping[str, Any]) -> Cleaning:
    started_ms = int(build["timestamp"])
    # `result` may be there before the build has ended
    ended = not build["building"] and build.get("result") is not None
    return Cleaning(
        number=int(build["number"]),
        url=str(build["url"]),
        started_ms=started_ms,
        ended_ms=started_ms + int(build["duration"]) if ended else None,
        result=str(build["result"]) if ended else None,
        built_on=build.get("builtOn"),
        description=build.get("description"),
    )


def _node_of(actions: Iterable[Mapping[str, Any]] | None) -> str | None:
    for action in actions or ():
        for parameter in action.get("parameters") or ():
            if parameter.get("name") == PARAMETER:
                # the NodeLabel plugin's parameter has a label where others have a value
                return str(parameter.get("value") or parameter.get("label") or "").strip() or None
    return None
