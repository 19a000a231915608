"""How the agent's Java is started, whatever the transport."""

from __future__ import annotations

from provisioner.transports.setup import File, Setup

#: The start of the JVM is most of an agent's start, and processor-bound in a burst: the fast compiler alone
#: and the collector without threads of its own, and no file for other processes to watch it by.
#: An image may carry any Java, hence the first flag.
FLAGS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Xshare:auto",
)


#: Where below its work folder the agent keeps the jars that it fetches from the controller.
JAR_CACHE = "remoting/jarCache"


def inbound(setup: Setup) -> tuple[str, ...]:
    """The part of the command that every inbound agent has.

    Java is run directly, since an image may lack a shell. The secret is read from a file, since arguments are
    seen by everyone. No `-noReconnect`: a build runs on over a restart of the controller.
    """
    return (
        "{java}",
        *FLAGS,
        "-jar",
        "{jar}",
        "-url",
        setup.agent_url,
        "-secret",
        "@{secrets}/secret",
        "-name",
        setup.name,
        "-workDir",
        "{work}",
    )


def secret_file(setup: Setup) -> tuple[File, ...]:
    """The node's secret, by which an inbound agent proves itself."""
    return (File(name="secret", content=setup.secret.encode()),)
