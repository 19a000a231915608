"""What pages and API read of the engine."""

from __future__ import annotations

from provisioner.lifecycle.engine import Engine
from provisioner.lifecycle.operations import Operations
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.agent import Agent


class View:
    """One for each server."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.desk = engine.desk
        self.operations = Operations(engine)
        self.outlook = Outlook(engine)

    def agents(self) -> list[Agent]:
        """The live agents, oldest first."""
        return sorted((task.agent for task in self.desk.agents.values()), key=lambda a: (a.created_at, a.name))
