"""What works and is seldom meant: told by `check` and at the start, and no error."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from provisioner.config.settings import Settings


def cautions(settings: Settings) -> Iterator[str]:
    """A sentence each, with the key path that it is about."""
    for index, provider in enumerate(settings.providers):
        if provider.tls is None and urlsplit(provider.address or "").scheme == "tcp":
            yield (
                f"providers[{index}].endpoint: {provider.endpoint} has no TLS: whoever may open a connection on that "
                "machine is root there; use unix:///PATH, ssh://USER@HOST or `tls`"
            )
