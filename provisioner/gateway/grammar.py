"""What Jenkins' SSH launcher may ask for, and nothing else: its commands are understood here, never run (pure).

They are those of the plugin SSH Build Agents, 1.x to 3.x: `exit 0`, `set`, a look for Java, the upload of
`remoting.jar` by SFTP or SCP, and the agent's own command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

JAR_NAME = "remoting.jar"
MOST_COMMAND = 8192  # characters; the longest of the launcher's have a few hundred

_JAVA = r"(?:/[A-Za-z0-9._+/-]*/)?java"
_OPTION = r"-[A-Za-z0-9._:=,@%+/\-]+"
_VERSION = re.compile(rf"\"?{_JAVA}\"?(?: +{_OPTION})* +-{{1,2}}version")


class Ask(StrEnum):
    """What a command of the launcher is for."""

    NOTHING = "nothing"  # it looks whether a command prints what it should not
    ENVIRONMENT = "environment"  # for its log
    VERSION = "version"  # of Java
    FOLDER = "folder"  # is the root there; make it
    FORGET = "forget"  # the jar of an earlier time
    UPLOAD = "upload"  # the jar comes by SCP
    AGENT = "agent"  # the agent itself: its streams are the channel


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that is not the launcher's, or not for this agent."""

    reason: str


def understand(command: str, root: str) -> Ask | Refused:
    """What a command means for the agent with this root."""
    if len(command) > MOST_COMMAND or not command.isprintable():
        return Refused("it is too long, or has characters that no command of the launcher has")
    plain = {
        "exit 0": Ask.NOTHING,
        "set": Ask.ENVIRONMENT,
        f"test -d {root}": Ask.FOLDER,
        f"mkdir -p {root}": Ask.FOLDER,
        f"rm {root}/{JAR_NAME}": Ask.FORGET,
        f"scp -t -d {root}": Ask.UPLOAD,
    }
    if (known := plain.get(command)) is not None:
        return known
    if _VERSION.fullmatch(command):
        return Ask.VERSION
    if _agent(re.escape(root)).fullmatch(command):
        return Ask.AGENT
    if _agent(r"[^\"]+").fullmatch(command):
        return Refused("it is for another agent's folder")
    return Refused("it is none of the launcher's commands")


@lru_cache(maxsize=256)
def _agent(root: str) -> re.Pattern[str]:
    """The agent's command for roots that match a pattern."""
    below = rf"{root}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"
    return re.compile(
        rf"cd \"{root}\" && \"?{_JAVA}\"?(?: +{_OPTION})* +-jar {re.escape(JAR_NAME)}"
        rf"(?: +-workDir +{root}(?: +-jar-?[cC]ache +{below})?)? *"
    )
