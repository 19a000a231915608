from __future__ import annotations

import pytest

from provisioner.model.errors import LaunchError, Reason
from provisioner.transports import Setup, transport

SETUP = Setup(name="tpl-1", agent_url="http://j:8080/", secret="5" * 64)


def test_websocket_command_reads_the_secret_from_a_file_and_needs_no_shell() -> None:
    command = transport("websocket").command(SETUP)
    assert command[0] == "{java}"
    assert command[command.index("-secret") + 1] == "@{secrets}/secret"
    assert command[command.index("-url") + 1] == "http://j:8080/"
    assert command[command.index("-name") + 1] == "tpl-1"
    assert command[command.index("-workDir") + 1] == "{work}"
    assert "-webSocket" in command
    assert "-noReconnect" not in command  # a build goes on over a restart of the controller


def test_java_s_flags_stand_before_the_jar() -> None:
    command = transport("tcp").command(SETUP)
    assert all(word.startswith("-X") for word in command[1 : command.index("-jar")])
    assert command[1] == "-XX:+IgnoreUnrecognizedVMOptions"  # only flags after it are forgiven by an old Java
    assert "-webSocket" not in command


@pytest.mark.parametrize("name", ["websocket", "tcp"])
def test_an_inbound_agent_gets_the_node_s_secret_and_nothing_else(name: str) -> None:
    (file,) = transport(name).files(SETUP)
    assert (file.name, file.content, file.public) == ("secret", SETUP.secret.encode(), False)
    assert not transport(name).dialled


def test_unknown_transport_names_those_there_are() -> None:
    with pytest.raises(LaunchError, match="ssh, tcp, websocket") as caught:
        transport("telnet")
    assert caught.value.reason is Reason.TEMPLATE_INVALID
