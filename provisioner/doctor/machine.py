"""This machine: descriptors, disk, the state file."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from provisioner.config import BackendKind, Settings, unreadable_files, written
from provisioner.doctor.findings import Findings
from provisioner.model.errors import ConfigError

#: Descriptors for each agent that is being started, and for all else.
_FOR_EACH, _FOR_REST = 4, 256
_LOW_BYTES, _LEAST_BYTES = 1 << 30, 100 << 20


def examine_machine(settings: Settings) -> Findings:
    """Everything about the machine that the provisioner runs on."""
    findings = Findings("this machine", [])
    _descriptors(findings, settings)
    _state(findings, settings)
    for provider in settings.providers:
        if provider.backend is BackendKind.PROCESS:
            _disk(findings, f"disk of {provider.name}", settings.work_dir(provider))
    _secrets(findings, settings)
    return findings


def _descriptors(findings: Findings, settings: Settings) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FOR_EACH * settings.limits.agents + _FOR_REST
    text = f"{soft} open files allowed; {settings.limits.agents} agents need about {needed}"
    if soft in {resource.RLIM_INFINITY, -1} or soft >= needed:
        findings.ok("descriptors", text)
    else:
        findings.warn(
            "descriptors", text, f"raise it (`ulimit -n`, `LimitNOFILE=`; up to {hard} now), or limits.agents"
        )


def _state(findings: Findings, settings: Settings) -> None:
    folder = _existing(settings.state_file.parent)
    if settings.state_file.exists() and not settings.state_file.is_file():
        findings.fail("state", f"{settings.state_file} is no file", "name a file in `state`, in a folder of its own")
    elif settings.state_file.exists() and not os.access(settings.state_file, os.R_OK | os.W_OK):
        findings.fail("state", f"{settings.state_file} cannot be written by this user", "give it to the sidecar's user")
    elif not os.access(folder, os.W_OK | os.X_OK):
        findings.fail("state", f"the folder {folder} cannot be written by this user", "give it to the sidecar's user")
    else:
        findings.ok("state", f"{settings.state_file} can be written")
    _disk(findings, "disk of the state", settings.state_file.parent)


def _disk(findings: Findings, check: str, folder: Path) -> None:
    at = _existing(folder)
    free = shutil.disk_usage(at).free
    text = f"{free / 2**30:.1f} GiB free at {at}"
    if free < _LEAST_BYTES:
        findings.fail(check, text, "free space there; records and agents need it")
    elif free < _LOW_BYTES:
        findings.warn(check, text, "free space there")
    else:
        findings.ok(check, text)


def _secrets(findings: Findings, settings: Settings) -> None:
    named = [*((c.name, c.token) for c in settings.controllers), *((r.host, r.password) for r in settings.registries)]
    for name, secret in named:
        try:
            secret.read()
        except ConfigError as error:
            findings.fail(f"secret of {name}", error.message, "set it for the user that runs the provisioner")
    for problem in unreadable_files(settings):
        fix = "put it there, readable for the user that runs the provisioner, or write its right path"
        findings.fail(written(problem.path), problem.text, fix)


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
