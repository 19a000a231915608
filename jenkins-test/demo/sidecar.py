"""The provisioner of the demo: its configuration, its process, and what its log tells of every agent."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from demo.controllers import Access
from demo.processes import Child

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
_JOB = re.compile(r"/job/([^/]+)/")

#: The phases of the table: name, and the states between which it lies.
PHASES: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("registered", "planned", ("starting",)),
    ("started", "starting", ("connecting",)),
    ("connected", "connecting", ("idle",)),
    ("build taken", "idle", ("running",)),
    ("ran", "running", ("finished",)),
    ("removed", "removing", ("removed",)),
)


@dataclass(slots=True)
class Story:
    """One agent, as the log tells it."""

    name: str
    job: str
    at_s: dict[str, float] = field(default_factory=dict)  # when each state was entered
    state: str = "planned"
    reason: str = ""

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left, as the provisioner says."""
        return self.state == "removed"

    def phase_s(self, begin: str, ends: tuple[str, ...]) -> float | None:
        """How long a phase took; None if it was not reached."""
        until = [self.at_s[end] for end in ends if end in self.at_s]
        return until[0] - self.at_s[begin] if begin in self.at_s and until else None


class SidecarRun:
    """`provisioner run` as its users run it."""

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str],
        access: Access,
        *,
        owner: str,
        providers: Sequence[Mapping[str, object]],
        templates: Sequence[Mapping[str, object]],
    ) -> None:
        config = folder / "provisioner.yaml"
        settings = {
            "id": owner,
            "controllers": [{"name": "main", "url": access.url, "user": access.user, "token": {"env": "DEMO_TOKEN"}}],
            "state": str(folder / "state" / "state.db"),
            "http": {"listen": "127.0.0.1:0"},
            "providers": list(providers),
            "templates": list(templates),
        }
        config.write_text(yaml.safe_dump(settings, sort_keys=False))
        command = [sys.executable, "-m", "provisioner", "run", "-c", str(config)]
        path = os.pathsep.join(filter(None, (str(_CHECKOUT), env.get("PYTHONPATH"))))
        self.child = Child(
            "provisioner",
            [*command, "--log-level", "debug", "--log-format", "json"],
            env={**env, "DEMO_TOKEN": access.token, "PYTHONPATH": path},
            folder=folder,
        )
        self.http = ""  # host:port, as soon as it listens
        self.bridge = ""
        self.stories: dict[str, Story] = {}
        self._read = 0

    @property
    def port(self) -> int | None:
        """Of its HTTP server; None before it listens."""
        return int(self.http.rpartition(":")[2]) if self.http else None

    def ready(self) -> bool:
        """Whether it says that it can work."""
        if not self.http:
            return False
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://{self.http}/readyz", timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except OSError:  # an error status too
            return False

    def follow(self) -> None:
        """Read what is new in the log."""
        with self.child.log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # a warning of Python itself
                continue
            if isinstance(entry, dict):
                self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        match entry.get("event"):
            case "sidecar.started":
                self.http = entry["http"]
            case "controller.opened":
                self.bridge = entry["bridge"]
            case "agent.planned":
                job = _JOB.search("/" + entry["request"])
                story = Story(entry["agent"], job[1] if job else entry["request"])
                story.at_s["planned"] = _at_s(entry)
                self.stories[story.name] = story
            case "agent.moved" if entry["agent"] in self.stories:
                story = self.stories[entry["agent"]]
                story.state = entry["state"]
                story.at_s[story.state] = _at_s(entry)
            case "launch.failed" if entry["agent"] in self.stories:
                self.stories[entry["agent"]].reason = entry["reason"]


def _at_s(entry: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(entry["timestamp"]).timestamp()
