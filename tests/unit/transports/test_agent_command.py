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
    with pytest.raises(LaunchError, match="ssh, ssh-gateway, tcp, websocket") as caught:
        transport("telnet")
    assert caught.value.reason is Reason.TEMPLATE_INVALID


def test_through_the_gateway_the_agent_speaks_by_its_own_streams_and_says_which_java_it_is() -> None:
    way = transport("ssh-gateway")
    words = way.command(SETUP)
    assert way.dialled
    assert way.channel
    assert not way.listens
    assert words[-4:] == ("-workDir", "{work}", "-jar-cache", "{work}/remoting/jarCache")
    assert "-showversion" in words
    assert way.files(SETUP) == ()
