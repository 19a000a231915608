"""What carries the mark of this project on this machine: nothing may, once the tests are done.

Tests mark what they start with `JENKINS_PROVISIONER_TEST`, the name of the run, in its environment, and may
put that name into their owner ids (`new_owner`); so runs beside each other do not count each other's things.
With SHARED_MACHINE set only what carries the name of this run counts, for a machine on which other
provisioners live.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import time
from pathlib import Path

RUN_VARIABLE = "JENKINS_PROVISIONER_TEST"
OWNER_VARIABLE = "JENKINS_PROVISIONER_OWNER"
OWNER_LABEL = "jenkins-provisioner.owner"
_RUN = re.compile(r"run-[0-9a-f]{8}")


def new_run() -> str:
    """A name for one run of the suite."""
    return f"run-{secrets.token_hex(4)}"


def new_owner() -> str:
    """An owner id for one test, with the name of the run in it."""
    return f"test-{os.environ.get(RUN_VARIABLE, new_run())}-{secrets.token_hex(4)}"


def of_owner(owner: str) -> set[str]:
    """The same for one owner id of `new_owner`, on any machine."""
    run = _RUN.search(owner)
    return {line for line in marked(run[0] if run else "") if owner in line}


def left_of(owner: str, *, within_s: float = 20.0) -> set[str]:
    """What is left of one owner id when things that are ending have had time to."""
    deadline = time.monotonic() + within_s
    while (left := of_owner(owner)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def marked(run: str) -> set[str]:
    """A line for each process, container, volume and network with a mark, but those of other runs."""
    return _processes(run) | _docker_things(run)


def _ours(run: str, *marks: str) -> bool:
    """Whether these marks make it a thing of this run: they name it, or name no run at all."""
    runs = set(_RUN.findall(" ".join(marks)))
    return run in runs or (not runs and any(marks) and not os.environ.get("SHARED_MACHINE"))


def _processes(run: str) -> set[str]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
        except OSError:  # gone, or another user's
            continue
        pairs = dict(pair.split("=", 1) for pair in environment.split("\0") if "=" in pair)
        owner, of_run = pairs.get(OWNER_VARIABLE, ""), pairs.get(RUN_VARIABLE, "")
        if _ours(run, owner, of_run):
            found.add(f"process {entry.name}: {command[:120]}{f' (owner {owner})' if owner else ''}")
    return found


def _docker_things(run: str) -> set[str]:
    """By the command line tool, which knows the engine of this machine; none of it, nothing to find."""
    if shutil.which("docker") is None:
        return set()
    found = set()
    for kind, listing in {
        "container": ["ps", "--all", "--no-trunc", "--format", "{{.Names}}"],
        "volume": ["volume", "ls", "--format", "{{.Name}}"],
        "network": ["network", "ls", "--format", "{{.Name}}"],
    }.items():
        listing[-1] += f'\t{{{{.Label "{OWNER_LABEL}"}}}}'
        asked = subprocess.run(
            ["docker", *listing, "--filter", f"label={OWNER_LABEL}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if asked.returncode != 0:  # no engine: then nothing of ours runs in it
            return set()
        for line in asked.stdout.splitlines():
            name, _, owner = line.partition("\t")
            if _ours(run, owner):
                found.add(f"{kind} {name} (owner {owner})")
    return found
