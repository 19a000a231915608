"""What Jenkins' SSH launcher may ask for, word for word as three releases of it write it."""

from __future__ import annotations

import pytest

from provisioner.gateway.grammar import MOST_COMMAND, Ask, Refused, understand

ROOT = "/home/jenkins/agent"


@pytest.mark.parametrize(
    ("command", "ask"),
    [
        ("exit 0", Ask.NOTHING),
        ("set", Ask.ENVIRONMENT),
        ("java -version", Ask.VERSION),
        ("java  -version", Ask.VERSION),
        ("/usr/lib/jvm/java-17/bin/java -Xmx64m -version", Ask.VERSION),
        ('"/opt/java/bin/java" -version', Ask.VERSION),
        (f"test -d {ROOT}", Ask.FOLDER),
        (f"mkdir -p {ROOT}", Ask.FOLDER),
        (f"rm {ROOT}/remoting.jar", Ask.FORGET),
        (f"scp -t -d {ROOT}", Ask.UPLOAD),
        (f'cd "{ROOT}" && java  -jar remoting.jar', Ask.AGENT),
        (
            f'cd "{ROOT}" && java  -jar remoting.jar -workDir {ROOT} -jar-cache {ROOT}/remoting/jarCache',
            Ask.AGENT,
        ),
        (
            f'cd "{ROOT}" && /usr/bin/java -Xmx1g -XX:+UseSerialGC -Da.b=c:d -jar remoting.jar -workDir {ROOT}',
            Ask.AGENT,
        ),
    ],
)
def test_the_launchers_commands_are_understood(command: str, ask: Ask) -> None:
    assert understand(command, ROOT) is ask


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh",
        "bash -i",
        "exit 0; id",
        "set; id",
        "exit 1",
        "java -version; id",
        "java -version && id",
        "java $(id) -version",
        "java -jar remoting.jar",
        "java -cp /tmp/evil Main -version",
        "/tmp/../java -version; x",
        "test -d /etc",
        f"test -d {ROOT}/..",
        f"rm -rf {ROOT}",
        f"rm {ROOT}/../other/remoting.jar",
        "scp -t -d /etc",
        f"scp -f {ROOT}/remoting.jar",
        f"scp -r -t -d {ROOT}",
        'cd "/etc" && java  -jar remoting.jar',
        f'cd "{ROOT}" && java -jar other.jar',
        f'cd "{ROOT}" && java -jar remoting.jar; id',
        f'cd "{ROOT}" && java -jar remoting.jar | tee x',
        f'cd "{ROOT}" && java -javaagent:`id` -jar remoting.jar',
        f'cd "{ROOT}" && java -Dx=$(id) -jar remoting.jar',
        f'cd "{ROOT}" && sh -c id',
        f'cd "{ROOT}" && java -jar remoting.jar -workDir /etc',
        f'cd "{ROOT}" && java -jar remoting.jar -workDir {ROOT} -jarCache /etc',
        f'cd "{ROOT}" && java -jar remoting.jar -workDir {ROOT} -jarCache {ROOT}/../x',
        f'cd "{ROOT}/../x" && java -jar remoting.jar',
        f'cd "{ROOT}" && java\n-jar remoting.jar',
        f'cd "{ROOT}" && java -jar remoting.jar\0',
        "java " + "-Xa " * MOST_COMMAND + "-version",
    ],
)
def test_everything_else_is_refused(command: str) -> None:
    assert isinstance(understand(command, ROOT), Refused)


def test_another_agents_folder_is_named_as_the_reason() -> None:
    refused = understand('cd "/home/other" && java -jar remoting.jar', ROOT)
    assert isinstance(refused, Refused)
    assert "another agent's folder" in refused.reason
