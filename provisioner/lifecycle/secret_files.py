"""The secrets of a template: read from the sidecar's disk at each start, stored nowhere."""

from __future__ import annotations

import re
from pathlib import Path

from provisioner.backends.contract import SecretFile
from provisioner.config import Template
from provisioner.model.errors import LaunchError, Reason

MOST_BYTES = 1 << 20


def secret_files(template: Template) -> tuple[SecretFile, ...]:
    """The files that instances of the template get. Blocks.

    Raises:
        LaunchError: one cannot be read; the message names the file, never its content.
    """
    return tuple(
        SecretFile(
            name=f"{number}-{re.sub('[^A-Za-z0-9._-]', '_', Path(secret.file).name)}",
            content=_read(secret.file, template.name),
            at=secret.at,
            env=secret.env,
        )
        for number, secret in enumerate(template.secrets)
    )


def _read(path: str, template: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise LaunchError(
            f"the provisioner cannot read the file {path} of the `secrets` of template {template}: {error.strerror}",
            reason=Reason.TEMPLATE_INVALID,
        ) from error
    if len(content) > MOST_BYTES:
        raise LaunchError(
            f"the file {path} of the `secrets` of template {template} is larger than {MOST_BYTES >> 20} MB",
            reason=Reason.TEMPLATE_INVALID,
        )
    return content
