"""The lent machine: the borrower's agent is started and ended there, by one shell script whatever the way to it.

The secret goes to the script's standard input, never into arguments, environment, job, node or console.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol

from provisioner.model.errors import ProvisionerError
from provisioner.transports import Setup, websocket

_SCRIPT = files("provisioner.loans").joinpath("machine.sh").read_text(encoding="utf-8")


class MachineError(ProvisionerError):
    """The machine cannot be reached, or a step there did not work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What a step reads."""

    secret: str
    jar: bytes
    jar_url: str  # the same, for a way that lets the machine fetch it


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What became of a step."""

    status: int
    text: str


class Way(Protocol):
    """How a machine is reached."""

    java: str  # the executable; empty: the way sets the script's AGENT_JAVA

    def run(self, script: str, given: Input | None) -> Output:
        """Run a shell script there, with the secret and the jar on its standard input.

        Raises:
            MachineError: it could not be run at all.
        """
        ...


class Machine:
    """One lent machine.

    Args:
        way: how it is reached.
        root: folder for borrowers' agents; a relative one is below the home folder of the account.
        name: of the loan.
    """

    def __init__(self, way: Way, *, root: str, name: str) -> None:
        self._way = way
        self._root = root.rstrip("/")
        self._name = name

    def check(self) -> None:
        """Whether a loan can work there; nothing is left.

        Raises:
            MachineError: it cannot.
        """
        self._do("check", None)

    def start(self, *, agent_url: str, secret: str, jar: bytes) -> str:
        """Have the borrower's agent run, detached; one that runs already is left alone.

        Returns:
            What was done: `started`, `running`, or `starting` where somebody else is just at it.

        Raises:
            MachineError: it cannot.
        """
        parts = websocket.command(Setup(name=self._name, agent_url=agent_url, secret=secret))[1:]
        places = {"{jar}": "$home/agent.jar", "{work}": "$home/work", "@{secrets}/secret": "@$home/secret"}
        command = " ".join(f'"{places[part]}"' if part in places else shlex.quote(part) for part in parts)
        jar_url = f"{agent_url}jnlpJars/agent.jar"
        return self._do(f"start {command}", Input(secret=secret, jar=jar, jar_url=jar_url))

    def stop(self) -> str:
        """End the agent and all that it started, and remove its files; gone already is done.

        Raises:
            MachineError: something is left.
        """
        return self._do("stop", None)

    def _do(self, step: str, given: Input | None) -> str:
        variables = {"name": self._name, "root": self._root, "java": self._way.java}
        head = "".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items())
        output = self._way.run(f"{head}{_SCRIPT}\n{step}\n", given)
        said = _last(output.text.splitlines())
        if output.status != 0:
            raise MachineError(f"on its machine: {said or f'the step ended with status {output.status}'}")
        return said


def _last(lines: Sequence[str]) -> str:
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "")
