from __future__ import annotations

import pytest

from provisioner.model.errors import LaunchError, Reason
from provisioner.transports import agent_command


def test_websocket_command_reads_the_secret_from_a_file_and_needs_no_shell() -> None:
    command = agent_command(transport="websocket", agent_url="http://j:8080/", name="tpl-1")
    assert command[0] == "{java}"
    assert command[command.index("-secret") + 1] == "@{secrets}/secret"
    assert command[command.index("-url") + 1] == "http://j:8080/"
    assert command[command.index("-name") + 1] == "tpl-1"
    assert command[command.index("-workDir") + 1] == "{work}"
    assert "-webSocket" in command
    assert "-noReconnect" not in command  # a build goes on over a restart of the controller


def test_java_s_flags_stand_before_the_jar() -> None:
    command = agent_command(transport="tcp", agent_url="http://j/", name="n")
    assert all(word.startswith("-X") for word in command[1 : command.index("-jar")])
    assert command[1] == "-XX:+IgnoreUnrecognizedVMOptions"  # only flags after it are forgiven by an old Java
    assert "-webSocket" not in command


def test_unknown_transport_names_those_there_are() -> None:
    with pytest.raises(LaunchError, match="tcp, websocket") as caught:
        agent_command(transport="ssh", agent_url="http://j/", name="n")
    assert caught.value.reason is Reason.TEMPLATE_INVALID
