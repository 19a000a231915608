"""Where secrets and volumes may be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.config.config_samples import told

T = "templates.0"
CACHE = {"cache": "repo", "at": "/c"}
PER_JOB = {"workspace": "per-job"}
GOOD: list[list[tuple[str, Any]]] = [
    [(f"{T}.secrets", [{"file": "/run/x", "at": "/c2/x"}]), (f"{T}.volumes", [CACHE])],
    [(f"{T}.secrets", [{"file": "/run/x", "env": "X"}, {"file": "/run/x", "env": "Y", "at": "/y"}])],
    [(f"{T}.volumes", [CACHE, PER_JOB])],
    [(f"{T}.hold_on_failure", 3)],
    [(f"{T}.hold_on_failure", "30m")],
    [(f"{T}.resources", {"disk": "20g", "devices": ["/dev/kvm"], "gpus": 1})],
    [(f"{T}.read_only", True), (f"{T}.tmpfs", ["/var/cache"]), (f"{T}.secrets", [{"file": "/x", "at": "/etc/x"}])],
    [(f"{T}.read_only", False), (f"{T}.providers", ["here"])],
]


@pytest.mark.parametrize("changes", GOOD)
def test_these_are_fine(changes: list[tuple[str, Any]]) -> None:
    assert told(*changes) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            [(f"{T}.secrets", [{"file": "/run/x", "at": "/c/x"}]), (f"{T}.volumes", [CACHE])],
            "templates[0].secrets[0].at: is in the cache repo, which outlives the agent; put it somewhere else",
        ),
        (
            [
                (f"{T}.remote_fs", "/w"),
                (f"{T}.volumes", [PER_JOB]),
                (f"{T}.secrets", [{"file": "/x", "at": "/w/workspace/x"}]),
            ],
            (
                "templates[0].secrets[0].at: is in the workspace of the job, which outlives the agent; "
                "put it somewhere else"
            ),
        ),
        (
            [(f"{T}.env", {"X": "1"}), (f"{T}.secrets", [{"file": "/x", "env": "X"}])],
            'templates[0].secrets[0].env: "X" is set already; write another one or leave this out',
        ),
        (
            [(f"{T}.volumes", [PER_JOB]), (f"{T}.standby", 1)],
            (
                "templates[0].standby: cannot be had with `volumes: [{workspace: per-job}]`: an agent that waits has "
                "no job yet; use 0"
            ),
        ),
        (
            [(f"{T}.volumes", [PER_JOB, PER_JOB])],
            'templates[0].volumes[1]: "workspace" is taken already; write another one or leave this out',
        ),
        (
            [(f"{T}.read_only", True), (f"{T}.providers", ["box", "here"])],
            ("templates[0].read_only: is for backend docker only; provider here is of backend process, leave it out"),
        ),
        (
            [(f"{T}.tmpfs", ["/var/cache"])],
            "templates[0].tmpfs: is for `read_only: true`; add that, or leave it out",
        ),
        (
            [(f"{T}.read_only", True), (f"{T}.remote_fs", "/w"), (f"{T}.tmpfs", ["/a", "/w"])],
            'templates[0].tmpfs[1]: "/w" is taken already; write another one or leave this out',
        ),
        (
            [(f"{T}.read_only", True), (f"{T}.secrets", [{"file": "/x", "at": "/x"}])],
            "templates[0].secrets[0].at: is at the root, which is read-only; write a path in some folder",
        ),
        (
            [(f"{T}.read_only", True), (f"{T}.resources", {"disk": "20g"})],
            (
                "templates[0].resources.disk: bounds nothing with `read_only`, where all that is written is in volumes "
                "and memory; leave it out"
            ),
        ),
        (
            [(f"{T}.read_only", True), (f"{T}.overrides", {"disk": {"max": "20g"}})],
            (
                "templates[0].overrides.disk: bounds nothing with `read_only`, where all that is written is in volumes "
                "and memory; leave it out"
            ),
        ),
        (
            [(f"{T}.hold_on_failure", "soon")],
            (
                "templates[0].hold_on_failure: is neither a number of agents nor a duration with its unit; write 0, "
                "how many agents such as 2, or for how long each such as 30m"
            ),
        ),
        (
            [(f"{T}.hold_on_failure", "30")],
            (
                "templates[0].hold_on_failure: is neither a number of agents nor a duration with its unit; write 0, "
                "how many agents such as 2, or for how long each such as 30m"
            ),
        ),
    ],
)
def test_what_cannot_be_is_told(changes: list[tuple[str, Any]], line: str) -> None:
    assert told(*changes) == [line]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ((f"{T}.secrets", [{"file": "/x", "at": "/y"}]), "templates[0].secrets[0].at"),
        ((f"{T}.volumes", [CACHE]), "templates[0].volumes"),
    ],
)
def test_agents_without_a_file_system_of_their_own_get_no_place_in_it(change: tuple[str, Any], path: str) -> None:
    here = {"name": "here", "backend": "process", "max_agents": 1}
    (line,) = told(("providers.1", here), (f"{T}.providers", ["here"]), change)
    assert line.startswith(f"{path}: cannot be had there: provider here is of backend process")
