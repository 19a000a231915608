"""What Jenkins' plugin SSH Build Agents asks an SSH server to run, and nothing else (pure).

It runs `exit 0`, to see whether a login prints anything; `set`, for its log; then it puts `remoting.jar` into the
agent's root over SFTP and runs `cd "ROOT" && java OPTIONS -jar remoting.jar -workDir ROOT …`, whose standard streams
are the channel.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

#: How the plugin names the file that it brings, below the agent's root.
JAR = "remoting.jar"

_QUIT = re.compile(r"exit (\d{1,3})")
_LAUNCH = re.compile(r'cd "(?P<root>[^"\n]+)" && (?P<java>[^\n]+?) -jar ' + re.escape(JAR) + r"(?P<rest>( [^\n]*)?)")


@dataclass(frozen=True, slots=True)
class Quit:
    """End with this code, and print nothing."""

    code: int


@dataclass(frozen=True, slots=True)
class Environment:
    """Print the environment."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the agent; its standard streams are the channel."""

    root: str
    arguments: tuple[str, ...]  # of the agent, such as -workDir ROOT


Command = Quit | Environment | Launch


def parse(text: str | None) -> Command | None:
    """What is asked for; None: something else, a shell among it."""
    text = (text or "").strip()
    if found := _QUIT.fullmatch(text):
        return Quit(int(found[1]) & 255)
    if text == "set":
        return Environment()
    if found := _LAUNCH.fullmatch(text):
        try:
            return Launch(found["root"], tuple(shlex.split(found["rest"])))
        except ValueError:
            return None
    return None
