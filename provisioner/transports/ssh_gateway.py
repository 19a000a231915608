"""The controller dials a gateway beside the sidecar, which carries what it sends to the agent's own streams.

The instance needs neither an SSH server nor a network. Its agent begins when the gateway opens the streams, not when
the controller asks for it, so that the JVM starts while the controller still says hello.
"""

from __future__ import annotations

from provisioner.transports.java import FLAGS, JAR_CACHE
from provisioner.transports.setup import File, Setup


def command(_setup: Setup) -> tuple[str, ...]:
    """The agent, on its own standard input and output; Java says on standard error which one it is."""
    return (
        "{java}",
        *FLAGS,
        "-showversion",
        "-jar",
        "{jar}",
        "-workDir",
        "{work}",
        "-jar-cache",
        f"{{work}}/{JAR_CACHE}",
    )


def files(_setup: Setup) -> tuple[File, ...]:
    """None: what the agent may do comes with its streams."""
    return ()
