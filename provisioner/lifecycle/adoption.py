"""Agents that no record knows: the state file was lost, their builds were not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.backends.contract import Found
from provisioner.config import Template
from provisioner.model.agent import Agent, AgentState, Target
from provisioner.model.queue import NodeView

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import Desk

#: What must have been written for a teardown to look for both node and instance.
_PASSED = (AgentState.PLANNED, AgentState.REGISTERING, AgentState.STARTING, AgentState.RUNNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stranger:
    """An instance of ours without a record; it holds a slot all the same."""

    name: str
    provider: str
    labels: tuple[str, ...] = ()  # as far as its template is still known
    controller: str = ""  # nobody knows
    state: AgentState = AgentState.RUNNING

    @property
    def template(self) -> str:
        """What its name begins with."""
        return template_of(self.name)


def template_of(agent: str) -> str:
    """The template in an agent's name."""
    return agent.rpartition("-")[0] or agent


def strangers(desk: Desk) -> Iterator[Stranger]:
    """Whatever holds a slot although no record knows it."""
    labels = {template.name: template.labels for template in desk.settings.templates}
    for provider in desk.providers.values():
        for name in {found.agent for found in provider.found} - desk.agents.keys():
            yield Stranger(name=name, provider=provider.name, labels=labels.get(template_of(name), ()))


def adopted(desk: Desk, controller: str, view: NodeView) -> Agent | None:
    """A record for a node that runs a build, made from the marks outside; None if its instance is nowhere.

    It is torn down as every other one when its build ends. Which request it was made for is no longer known, and
    no longer matters: its build has begun.
    """
    for provider in desk.providers.values():
        parts = [found for found in provider.found if found.agent == view.name]
        if parts:
            return _record(desk, controller, view, provider.name, parts)
    return None


def _record(desk: Desk, controller: str, view: NodeView, provider: str, parts: Iterable[Found]) -> Agent:
    now = desk.clock.now()
    name = template_of(view.name)
    template = next((t for t in desk.settings.templates if t.name == name), None)
    if template is None:  # no longer configured; nothing of it is needed but its name
        template = Template.from_spec({"name": name, "labels": [name], "providers": [provider]})
    return Agent(
        name=view.name,
        owner=desk.settings.id,
        controller=controller,
        template=name,
        provider=provider,
        request=None,
        state=AgentState.RUNNING,
        target=Target.SERVE,
        created_at=now,
        spec=template.spec(),
        ids={part.kind: part.id for part in parts},
        marks={state.value: now for state in _PASSED},
        build_url=view.build_url,
    )
