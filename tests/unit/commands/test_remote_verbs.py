"""The verbs that ask a running sidecar, over its real HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.commands import remote
from provisioner.commands.main import main
from provisioner.commands.tables import age, plain, print_table
from provisioner.model.agent import AgentState
from tests.unit.web.conftest import Served, gone, make_served, running, served  # noqa: F401  (fixtures)


class Verbs:
    """Runs verbs in a thread, as the sidecar's loop goes on in this one."""

    def __init__(self, running_one: Served, capsys: pytest.CaptureFixture[str]) -> None:
        self.served = running_one
        self.house = running_one.house
        self._capsys = capsys

    async def __call__(self, *words: str, status: int = 0) -> str:
        """What it printed; of a failure what it said on standard error."""
        where = ("--url", self.served.url, "--token-file", str(self.house.settings.token_file))
        self._capsys.readouterr()  # the engine's own log
        ended = await asyncio.to_thread(main, [*words, *where])
        out, err = self._capsys.readouterr()
        assert ended == status, f"{words}: {ended}\n{out}{err}"
        lines = [
            line for line in (err if status else out).splitlines() if not line.startswith("20") or "Z " in line[:26]
        ]
        return "\n".join(lines)


@pytest.fixture
async def verbs(served: Served, capsys: pytest.CaptureFixture[str]) -> Verbs:  # noqa: F811
    await served.house.until(
        lambda: served.house.desk.controllers["main"].seen and served.house.desk.providers["box"].up
    )
    return Verbs(served, capsys)


async def test_list_prints_aligned_columns(verbs: Verbs) -> None:
    name = await running(verbs.served, job="team/app")
    head, row = (await verbs("list")).splitlines()
    assert head.split() == ["AGENT", "STATE", "PROVIDER", "AGE", "JOB"]
    assert row.split() == [name, "running", "box", row.split()[3], "team/app"] or row.split()[-1] == "team"
    assert head.index("STATE") == row.index("running")
    verbs.house.controller.queue(label="windows")
    await verbs.house.until(lambda: verbs.house.desk.book.unserved)
    assert (await verbs("list", "requests")).splitlines() == [
        "no requests",
        "1 more in the queue that no template serves",
    ]
    assert (await verbs("list", "providers")).splitlines()[1].split() == ["box", "docker", "open", "1/10", "fake", "1"]
    assert (await verbs("list", "templates")).splitlines()[1].split() == ["maven", "0", "1/-", "box", "maven"]


@pytest.mark.parametrize("what", ["agents", "requests", "providers", "templates"])
async def test_list_as_json_is_the_apis_answer(verbs: Verbs, what: str) -> None:
    assert what in json.loads(await verbs("list", what, "--json"))


async def test_names_from_strangers_do_not_command_the_terminal(verbs: Verbs) -> None:
    await running(verbs.served, job="a\x1b[2Jb\nc")
    out = await verbs("list")
    assert "a?[2Jb?c" in out
    assert len(out.splitlines()) == 2


async def test_explain_an_item_or_an_expression(verbs: Verbs) -> None:
    verbs.house.controller.queue(label="windows", job="w")
    await verbs.house.until(lambda: verbs.house.desk.book.unserved)
    assert (await verbs("explain", "1")).splitlines() == [
        "queue item 1 of w at main, label windows: no template serves it: it does not have the label windows",
        "  next: nothing from here: it is left to other nodes and clouds",
        "  template maven: no: it does not have the label windows",
        "  provider box: no: no template serves it",
    ]
    out = await verbs("explain", "maven && !x")
    assert out.splitlines()[0] == "label maven && !x: template maven serves it, provider box would take it now"
    assert json.loads(await verbs("explain", "maven", "--json"))["verdict"] == "yes"
    assert "no buildable item 7" in await verbs("explain", "7", status=1)


async def test_an_expression_that_cannot_be_read_is_wrong_usage(verbs: Verbs) -> None:
    assert "a label is missing" in await verbs("explain", "maven &&", status=2)


async def test_verbs_that_change_something_print_json_too(verbs: Verbs) -> None:
    name = await running(verbs.served)
    assert json.loads(await verbs("hold", name, "--json"))["held_until"]
    assert json.loads(await verbs("release", name, "--json"))["held_until"] is None
    assert json.loads(await verbs("drain", "box", "--json"))["drained"] is True
    assert json.loads(await verbs("resume", "box", "--json"))["drained"] is False
    assert json.loads(await verbs("delete", name, "--now", "--json"))["target"] == "gone"


async def test_logs_once_and_followed_to_the_end(verbs: Verbs) -> None:
    name = await running(verbs.served)
    assert f"Template maven on provider box serves this build with the agent {name}" in await verbs("logs", name)
    following = asyncio.create_task(verbs("logs", "-f", name))
    await verbs.house.until(lambda: True)
    verbs.house.controller.finish_build(name)
    assert (await following).splitlines()[-1].partition(" ")[2].startswith(f"Agent {name} is done")
    assert "there is no agent 'nobody'" in await verbs("logs", "-f", "nobody", status=1)
    assert "there is no agent '..'" in await verbs("logs", "..", status=1)
    assert "there is no agent 'a/b'" in await verbs("logs", "a/b", status=1)


async def test_hold_release_and_delete(verbs: Verbs) -> None:
    name = await running(verbs.served)
    assert "is held until" in await verbs("hold", name, "--for", "90s", "--reason", "look")
    assert verbs.house.desk.agents[name].agent.hold_reason == "look"
    assert "a build runs on" in await verbs("delete", name, status=1)
    verbs.house.controller.finish_build(name)
    await verbs.house.until(lambda: verbs.house.desk.agents[name].agent.state is AgentState.FINISHED)
    assert "finished, held" in await verbs("list")
    assert "is not held" in await verbs("release", name)
    await gone(verbs.served, name)
    assert await verbs("delete", name) == f"{name} is gone"
    other = await running(verbs.served)
    assert await verbs("delete", other, "--now") == f"{other} is being removed"
    await gone(verbs.served, other)
    assert "--for soon is not a duration" in await verbs("hold", other, "--for", "soon", status=2)


async def test_drain_and_resume(verbs: Verbs) -> None:
    assert await verbs("drain", "box") == "box gets no new agents; those that are there stay (0 of 10)"
    assert verbs.house.desk.providers["box"].drained
    assert "draining" in await verbs("list", "providers")
    assert await verbs("resume", "box") == "box gets agents again (0 of 10)"
    assert "did you mean box?" in await verbs("drain", "bxo", status=1)


async def test_orphans(verbs: Verbs) -> None:
    assert await verbs("orphans") == "no orphans"
    assert await verbs("orphans", "--delete") == "nothing is left"
    assert json.loads(await verbs("orphans", "--json")) == {"orphans": []}


async def test_the_configuration_names_the_sidecar(
    verbs: Verbs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = verbs.house.settings
    config = {
        "id": settings.id,
        "state": settings.state,
        "http": {"listen": f"0.0.0.0:{verbs.served.address.rpartition(':')[2]}"},
        "controllers": [{"name": "main", "url": "http://127.0.0.1:1/", "user": "u", "token": {"env": "UNSET"}}],
        "providers": [{"name": "box", "backend": "docker", "max_agents": 1}],
        "templates": [{"name": "maven", "labels": ["maven"], "providers": ["box"], "image": "maven:3.9"}],
    }
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert await asyncio.to_thread(main, ["list", "providers", "-c", str(file)]) == 0
    assert "fake 1" in capsys.readouterr().out


def verb(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(words)
    return status, capsys.readouterr().err


def test_a_sidecar_that_does_not_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    status, err = verb("list", "--url", "http://127.0.0.1:1", "--token-file", str(token), capsys=capsys)
    assert status == 1
    assert err.startswith("provisioner list: no sidecar answers at http://127.0.0.1:1; start it with")
    status, err = verb("drain", "x", "--url", "http://127.0.0.1:1", "--token-file", "/nowhere/token", capsys=capsys)
    assert status == 1
    assert "/nowhere/token cannot be read: No such file" in err
    status, err = verb("list", "--url", "127.0.0.1:8085", "--token-file", str(token), capsys=capsys)
    assert status == 2
    assert "is no http or https URL" in err
    status, err = verb("list", "--url", "http://127.0.0.1:1", "-c", str(tmp_path / "none.yaml"), capsys=capsys)
    assert status == 2
    assert err.endswith("or name the sidecar's token file beside --url, with --token-file\n")
    status, err = verb("list", "-c", str(tmp_path / "none.yaml"), capsys=capsys)
    assert "--token-file" not in err
    assert status == 2
    assert "none.yaml:1: cannot be read" in err


async def test_a_wrong_token_is_told(verbs: Verbs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "other"
    token.write_text("wrong\n")
    status = await asyncio.to_thread(main, ["list", "--url", verbs.served.url, "--token-file", str(token)])
    assert status == 1
    assert f"does not take the token of {token}" in capsys.readouterr().err


@pytest.fixture
def token(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text("abc\n")
    return str(file)


def test_a_sidecar_that_accepts_and_does_not_answer_is_told_soon_but_a_delete_waits_for_the_controller(
    token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remote._ANSWER_S <= 10 < remote._WORK_S
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        for words, bound in (
            (("list",), "_ANSWER_S"),
            (("explain", "linux"), "_ANSWER_S"),
            (("hold", "a"), "_ANSWER_S"),
            (("drain", "box"), "_ANSWER_S"),
            (("logs", "a"), "_ANSWER_S"),
            (("logs", "-f", "a"), "_SILENCE_S"),
            (("delete", "a"), "_WORK_S"),
            (("orphans", "--delete"), "_WORK_S"),
        ):
            with monkeypatch.context() as short:
                short.setattr(f"provisioner.commands.remote.{bound}", 0.05)
                status, err = verb(*words, "--url", url, "--token-file", token, capsys=capsys)
            assert (status, err) == (1, f"provisioner {words[0]}: the sidecar at {url} does not answer in time\n")


async def test_an_expression_of_any_length_is_answered_or_told_to_be_too_long(verbs: Verbs) -> None:
    nested = f"{'(' * 1500}maven{')' * 1500}"
    assert "template maven serves it" in await verbs("explain", nested)
    assert "1 to 4000 characters" in await verbs("explain", "ü" * 4001, status=2)
    told = await verbs("explain", "x" * 80_000, status=2)
    assert told.startswith("what is asked is too long: a request of 80")


async def test_https_at_a_port_without_tls_is_no_matter_of_certificates(verbs: Verbs, token: str) -> None:
    capsys = verbs._capsys
    url = verbs.served.url.replace("http:", "https:")
    status = await asyncio.to_thread(main, ["list", "--url", url, "--token-file", token])
    assert status == 1
    told = f"{url} does not speak TLS; write {verbs.served.url}"
    assert told in capsys.readouterr().err


def test_tables_are_cut_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "LONG"), [("1", "x" * 300)], nothing="")
    assert "x" * 300 in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("A", "LONG"), [("1", "x" * 300)], nothing="")
    assert max(map(len, capsys.readouterr().out.splitlines())) == 40
    assert [age(s) for s in (5, 200, 18_120, 273_600)] == ["5s", "3m20s", "5h02m", "3d04h"]
    assert plain(None) == plain([]) == plain("") == "-"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def make(**more: Any) -> Path:
        file = tmp_path / "p.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "id": "test",
                    "state": str(tmp_path / "state.db"),
                    "controllers": [
                        {"name": "main", "url": "http://127.0.0.1:1/", "user": "u", "token": {"env": "A_TOKEN"}}
                    ],
                    "providers": [{"name": "here", "backend": "process", "max_agents": 1, "java": sys.executable}],
                    "templates": [{"name": "a", "labels": ["a"], "providers": ["here"]}],
                    **more,
                }
            )
        )
        return file

    return make


def check(file: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provisioner", "check", "--connect", "-c", str(file), *words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_check_connect_says_who_does_not_answer(config: Callable[..., Path]) -> None:
    ended = check(config(), A_TOKEN="x")
    assert ended.returncode == 1
    assert "controller main: FAILED, " in ended.stderr
    assert "provider here: ok, processes on " in ended.stdout
    body = json.loads(check(config(), "--json", A_TOKEN="x").stdout)
    assert [(r["kind"], r["ok"]) for r in body["reached"]] == [("controller", False), ("provider", True)]


def test_check_connect_of_a_bad_configuration_connects_to_nothing(config: Callable[..., Path]) -> None:
    ended = check(config(templates=[]), A_TOKEN="x")
    assert ended.returncode in (1, 2)
    ended = check(config(id="Not An Id"), A_TOKEN="x")
    assert ended.returncode == 2
    assert "FAILED" not in ended.stderr
    assert check(config(), A_TOKEN="").returncode == 2
