"""`provisioner bridge print|install|status|remove` beside a controller."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.commands.main import main
from provisioner.controller.bridge_script import content
from tests.standin_process import StandinProcess, ask

Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verb(
    standin: StandinProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Verb:
    """Runs the verb with a configuration of two controllers: the stand-in, and one that is not there."""
    monkeypatch.setenv("JENKINS_TOKEN", standin.token)
    here = {"name": "here", "url": standin.url, "user": standin.user, "token": {"env": "JENKINS_TOKEN"}}
    file = tmp_path / "provisioner.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "id": "prod-a",
                "controllers": [{**here, "bridge": "init"}, {**here, "name": "away", "url": "http://127.0.0.1:1/"}],
                "state": str(tmp_path / "state.db"),
                "providers": [{"name": "box", "backend": "process", "max_agents": 1}],
                "templates": [{"name": "one", "labels": ["one"], "providers": ["box"]}],
            }
        )
    )

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["bridge", *words, "-c", str(file)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def put(standin: StandinProcess, parameters: dict[str, Any]) -> None:
    assert ask(standin, "POST", "standin/bridge", body=json.dumps(parameters)).status < 300


def constant(script: str) -> Any:
    found = re.search(r"^String PROVISIONER_BRIDGE_PARAMETERS = '([A-Za-z0-9+/=]+)'$", script, re.MULTILINE)
    assert found
    return json.loads(base64.b64decode(found[1]))


def test_print_names_the_one_account_and_the_owner_ids(verb: Verb, standin: StandinProcess) -> None:
    status, out, err = verb("print", "--controller", "here", "--owner", "prod-b", "--owner", "prod-a")
    assert (status, err) == (0, "")
    assert constant(out) == {
        "mode": "init", "user": standin.user, "owners": ["prod-a", "prod-b"], "replace": True, "content": content(),
    }  # fmt: skip
    status, out, _ = verb("print", "--controller", "here", "--removal")
    assert (status, constant(out)) == (0, {"verb": "remove"})
    assert verb("print", "--controller", "here", "--owner", "a b")[0] == 2


def test_in_looked_at_and_out_again(verb: Verb, standin: StandinProcess) -> None:
    put(standin, {"verb": "remove"})
    where = ("--controller", "here")
    assert verb("status", *where)[1].splitlines()[1].split()[:2] == ["here", "none"]
    assert verb("remove", *where) == (0, "here: there was no bridge\n", "")
    assert verb("install", *where) == (0, "here: bridge 1.2.0 is in\n", "")
    assert verb("install", *where) == (0, "here: bridge 1.2.0 is there already; nothing was changed\n", "")
    status, out, _ = verb("status", "--json", *where)
    (told,) = json.loads(out)["controllers"]
    assert status == 0
    assert (told["mode"], told["bridge"], told["protocol"], told["events_lost"]) == ("script", "1.2.0", [1], 0)
    assert set(told["listeners"].values()) == {1}
    assert (told["content"], told["same_release"]) == (content(), True)
    _, out, _ = verb("status", *where)
    head, row = out.splitlines()
    assert head.split() == [
        "CONTROLLER",
        "BRIDGE",
        "CONTENT",
        "MODE",
        "SESSION",
        "LISTENERS",
        "READERS",
        "LOST",
        "OWNERS",
    ]
    assert row.split()[:4] == ["here", "1.2.0", content(), "script"]
    status, out, _ = verb("remove", *where)
    assert (status, out[:23]) == (0, "here: the bridge is out")
    assert ask(standin, "GET", "provisioner-bridge/status").status == 404


def test_an_administrators_bridge_is_left_as_its_file_says(verb: Verb, standin: StandinProcess) -> None:
    put(standin, {"mode": "init", "user": standin.user, "owners": ["prod-a"], "content": content()})
    status, out, _ = verb("install", "--controller", "here")
    assert status == 0
    assert "the administrator's bridge 1.2.0 is there already" in out
    assert verb("status", "--controller", "here")[1].splitlines()[1].split()[3] == "init"
    assert "init.groovy.d" in verb("remove", "--controller", "here")[1]


def test_another_release_of_one_version_is_replaced_unless_somebody_works_with_it(
    verb: Verb, standin: StandinProcess
) -> None:
    where = ("--controller", "here")
    put(standin, {"mode": "script", "replace": True, "content": "0123456789ab"})
    row = verb("status", *where)[1].splitlines()[1]
    assert "0123456789ab (another release's)" in row
    hello = {"protocol": 1, "owner": "prod-b", "holder": "01-b", "parameters": []}
    assert ask(standin, "POST", "provisioner-bridge/hello", body=json.dumps(hello)).status == 200
    status, out, _ = verb("install", *where)
    assert status == 0
    assert "of another release is there, and prod-b works with it; nothing was changed" in out
    assert "0123456789ab" in verb("status", *where)[1]
    put(standin, {"mode": "script", "replace": True, "content": "0123456789ab"})
    assert verb("remove", *where)[0] == 0
    put(standin, {"mode": "script", "content": "0123456789ab"})
    assert verb("install", *where) == (0, "here: bridge 1.2.0 is in\n", "")
    assert content() in verb("status", *where)[1]


def test_which_controller_must_be_said_where_there_are_several(verb: Verb) -> None:
    for act in ("print", "install", "remove"):
        status, out, err = verb(act)
        assert (status, out) == (2, "")
        assert "--controller: here, away" in err
    assert verb("status", "--controller", "nowhere")[0] == 2


def test_status_shows_who_answers_and_names_who_does_not(verb: Verb) -> None:
    status, out, err = verb("status")
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()] == ["CONTROLLER", "here"]
    assert err == (
        "provisioner bridge status: controller away at http://127.0.0.1:1/: "
        "the connection was refused; nothing listens there\n"
    )
