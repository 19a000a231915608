"""The configuration of a sidecar beside the stand-in."""

from __future__ import annotations

import os
from typing import Any

from tests.standin_process import StandinProcess


def configured(standin: StandinProcess, *, bridge: str = "auto", **template: Any) -> dict[str, Any]:
    return {
        "id": f"s{os.getpid()}",
        "controllers": [
            {
                "name": "main",
                "url": standin.url,
                "user": standin.user,
                "token": {"env": "JENKINS_TOKEN"},
                "bridge": bridge,
                "poll_interval": 0.2,
            }
        ],
        "providers": [{"name": "here", "backend": "process", "max_agents": 4, "java": standin.java}],
        "templates": [{"name": "any", "labels": ["linux"], "providers": ["here"], **template}],
    }
