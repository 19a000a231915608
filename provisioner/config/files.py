"""The files that the configuration names and does not read itself: keys, certificates, secrets of templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from provisioner.config.problems import KeyPath, Problem
from provisioner.config.settings import Settings


def unreadable_files(settings: Settings) -> tuple[Problem, ...]:
    """Each that this user cannot read now. The sidecar starts without them: what needs one is told then."""
    return tuple(
        Problem(path=path, text=f"{file} cannot be read: {why}")
        for path, file in _named(settings)
        if (why := _keeps_from_reading(file))
    )


def _named(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    for index, provider in enumerate(settings.providers):
        at: KeyPath = ("providers", index)
        if provider.tls is not None:
            yield (*at, "tls", "ca"), provider.tls.ca
            yield (*at, "tls", "cert"), provider.tls.cert
            yield (*at, "tls", "key"), provider.tls.key
        if provider.ssh is not None and provider.ssh.key is not None:
            yield (*at, "ssh", "key"), provider.ssh.key
        if provider.ssh is not None and provider.ssh.known_hosts is not None:
            yield (*at, "ssh", "known_hosts"), provider.ssh.known_hosts
    for index, template in enumerate(settings.templates):
        for place, secret in enumerate(template.secrets):
            yield ("templates", index, "secrets", place, "file"), secret.file
    for index, machine in enumerate(settings.loans.machines):
        yield ("loans", "machines", index, "key"), machine.key


def _keeps_from_reading(file: str) -> str:
    try:
        with Path(file).open("rb"):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__
