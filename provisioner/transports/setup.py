"""What a transport is told of one agent, and the files that it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """One agent as its transport sees it."""

    name: str
    agent_url: str  # the controller as agents reach it
    secret: str = field(repr=False)  # the node's
    template: Mapping[str, object] = field(default_factory=dict)  # the template's own keys


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file for the instance's secret folder."""

    name: str
    content: bytes = field(repr=False)
    public: bool = False  # nothing to hide: every user of the instance may read it
    of_server: bool = False  # belongs to whom the command runs as, though the agent may be another's
