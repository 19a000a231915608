"""What `loan` and `cleanup` say to an administrator who asks for the wrong thing, or while a controller is down."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from provisioner.commands.main import main


@pytest.fixture
def file(tmp_path: Path) -> Iterator[str]:
    """A configuration with two controllers, at both of which nobody listens."""
    token = tmp_path / "token"
    token.write_text("t")
    with socket.socket() as one, socket.socket() as two:
        controllers = []
        for name, bound in (("main", one), ("other", two)):
            bound.bind(("127.0.0.1", 0))  # and never listens: the port is refused, and nobody else's
            url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
            controllers.append({"name": name, "url": url, "user": "u", "token": {"file": str(token)}})
        settings = {"id": "a", "controllers": controllers, "cleanup": {"controller": "main", "job": "node-cleanup"}}
        path = tmp_path / "provisioner.yaml"
        path.write_text(yaml.safe_dump(settings))
        yield str(path)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("loan", "--to", "other"), "name the node"),
        (("loan", "--return"), "name the node"),
        (("loan", "n", "--once"), "leave n out"),
        (("loan", "n", "--now"), "--now means nothing without --return"),
        (("loan", "n", "--to", "other", "--now"), "--now means nothing without --return"),
        (("loan", "n", "--return", "--for", "1h"), "--for means nothing without --to"),
        (("loan", "n", "--labels", ""), "--labels means nothing without --to"),
        (("loan", "--no-wait"), "--no-wait means nothing without --to or --return"),
        (("loan", "n", "--to", "other", "--for", "long"), "--for long is not a duration"),
        (("loan", "n", "--return", "--wait", "soon"), "--wait soon is not a duration"),
        (("loan", "n", "--to", "other", "--for", "0"), "--for 0 is no time to lend anything; write more than 0"),
        (("loan", "n", "--to", "nope"), "--to nope is none of the controllers; write one of main, other"),
        (("loan", "n", "--to", "other", "--from", "zz"), "--from zz is none of the controllers; write one of main, o"),
        (("loan", "n", "--return", "--from", "zz"), "--from zz is none of the controllers; write one of main, other"),
        (("cleanup", "--recover", "n", "--once"), "leave --once and --dry-run out"),
        (("cleanup", "--json"), "--json is for --once and --dry-run"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    file: str, options: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([options[0], "-c", file, *options[1:]]) == 2
    told = capsys.readouterr()
    assert why in told.err
    assert told.out == ""


@pytest.mark.parametrize("options", [(), ("n",), ("--once",)])
def test_controllers_that_are_down_are_told_and_not_taken_for_ones_without_loans(
    file: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loan", "-c", file, *options]) == 1
    told = capsys.readouterr()
    assert told.out == "no loan is known, but nothing is known of main, other\n"
    assert "controller main at http" in told.err
    assert "controller other at http" in told.err
    assert main(["loan", "-c", file, *options, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["loans"] == []
    assert set(found["unknown"]) == {"main", "other"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--to", "other"), "whether n1 is a node of main cannot be told, and nothing is lent: controller main"),
        (("--to", "other", "--from", "main"), "whether n1 is a node of main cannot be told, and nothing is lent: con"),
        (("--return",), "whether n1 is lent cannot be told: controller main at http"),
    ],
)
def test_of_a_node_at_a_controller_that_is_down_nothing_is_claimed(
    file: str, options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loan", "-c", file, "n1", *options]) == 1
    assert capsys.readouterr().err.startswith(f"provisioner loan: {told}")


@pytest.mark.parametrize("options", [("--once",), ("--dry-run",), ("--once", "--json"), ("--recover", "n")])
def test_a_controller_that_is_down_fails_the_cleanup(
    file: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cleanup", "-c", file, *options]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("provisioner cleanup: controller main at http")
    assert told.out == ""
