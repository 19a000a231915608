"""From the file to `Settings`, or to everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from provisioner.config.document import Document, parse
from provisioner.config.files import unreadable_files
from provisioner.config.inheritance import inherit
from provisioner.config.not_yet import not_yet
from provisioner.config.problems import KeyPath, Problem, related, written
from provisioner.config.rules import RULES
from provisioner.config.salvage import salvage
from provisioner.config.secret import SecretRef
from provisioner.config.settings import Settings
from provisioner.config.wording import problems_of
from provisioner.model.errors import ConfigError

VARIABLE = "PROVISIONER_CONFIG"
FILE_NAME = "provisioner.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One problem as it is told."""

    file: str
    line: int
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.path}{': ' if self.path else ''}{self.text}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """The settings, or everything that is wrong, in the order of the file."""

    file: str
    settings: Settings | None
    findings: tuple[Finding, ...]
    document: Document = field(default_factory=Document, repr=False)

    def at(self, path: KeyPath, text: str) -> Finding:
        """What somebody else found wrong at a key."""
        return Finding(file=self.file, line=self.document.line(path), path=written(path), text=text)


def config_path(given: str | Path | None, env: Mapping[str, str] = os.environ) -> Path:
    """The file that was given, else `$PROVISIONER_CONFIG`, else `provisioner.yaml`."""
    return Path(given or env.get(VARIABLE) or FILE_NAME)


def load_to_run(path: str | Path | None = None, env: Mapping[str, str] = os.environ) -> Settings:
    """As `load`, for a sidecar: the secrets that it needs must be there, too.

    Raises:
        ConfigError: as `load` does, or with a line for every secret that is missing.
    """
    examined = examine(path, env)
    found = examined.findings or missing_secrets(examined, env)
    if examined.settings is None or found:
        raise ConfigError("\n".join(map(str, found)))
    return examined.settings


def missing_secrets(examined: Examined, env: Mapping[str, str] = os.environ) -> tuple[Finding, ...]:
    """Every token and password that cannot be read where the file says it is."""
    settings = examined.settings
    if settings is None:
        return ()
    named: list[tuple[KeyPath, SecretRef]] = [
        *((("controllers", i, "token"), controller.token) for i, controller in enumerate(settings.controllers)),
        *((("registries", i, "password"), registry.password) for i, registry in enumerate(settings.registries)),
    ]
    found = []
    for path, secret in named:
        try:
            secret.read(env)
        except ConfigError as error:
            found.append(examined.at(path, error.message))
    return tuple(found)


def missing_files(examined: Examined) -> tuple[Finding, ...]:
    """Every other file that is named and cannot be read; a sidecar starts without them."""
    problems = unreadable_files(examined.settings) if examined.settings is not None else ()
    return tuple(examined.at(problem.path, problem.text) for problem in problems)


def load(path: str | Path | None = None, env: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a file; without a path that of `$PROVISIONER_CONFIG` or `provisioner.yaml`.

    Raises:
        ConfigError: they cannot be used; the message has a line for every problem.
    """
    examined = examine(path, env)
    if examined.settings is None:
        raise ConfigError("\n".join(map(str, examined.findings)))
    return examined.settings


def examine(path: str | Path | None = None, env: Mapping[str, str] = os.environ) -> Examined:
    """Everything that `load` would find, without raising."""
    file = config_path(path, env)
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not a usable path"
        text = f"cannot be read: {why}; name another file with -c or ${VARIABLE}"
        return Examined(file=str(file), settings=None, findings=(Finding(file=str(file), line=1, path="", text=text),))
    return examine_bytes(data, str(file))


def examine_bytes(data: bytes, file: str) -> Examined:
    """The same for the content of a file; its name is used in the findings only."""
    document = parse(data)
    problems = list(document.problems)
    settings: Settings | None = None
    if isinstance(document.value, dict):
        inherited = inherit(document.value)
        problems += inherited.problems
        try:
            settings = Settings.model_validate(inherited.value)
        except ValidationError as error:
            # what the YAML itself has wrong at a key is told once
            problems += [p for p in problems_of(error) if all(p.path != known.path for known in document.problems)]
        problems += _between(inherited.value, problems)
        problems = [p for p in problems if not inherited.told_elsewhere(p, document.lines, problems)]
    if problems:
        settings = None
    return Examined(file=file, settings=settings, findings=_findings(file, document, problems), document=document)


def _findings(file: str, document: Document, problems: list[Problem]) -> tuple[Finding, ...]:
    told = {
        Finding(file=file, line=p.line or document.line(p.path), path=written(p.path), text=p.text): None
        for p in problems
    }
    return tuple(sorted(told, key=lambda finding: finding.line))


def _between(value: Mapping[str, object], known: list[Problem]) -> list[Problem]:
    """What the rules and the table of missing features say, where nothing is known to be wrong already."""
    parts, dropped = salvage(value)
    found = [problem for rule in RULES for problem in rule(parts)]
    for section, held in (
        ("controllers", parts.controllers),
        ("providers", parts.providers),
        ("templates", parts.templates),
    ):
        for index, part in held.items():
            found += not_yet(section, index, part.model_dump(by_alias=True))
    if parts.cleanup is not None:
        found += not_yet("cleanup", None, parts.cleanup.model_dump(by_alias=True))
    wrong = {problem.path for problem in known if problem.path} | dropped
    return [problem for problem in found if not any(related(problem.path, path) for path in wrong)]
