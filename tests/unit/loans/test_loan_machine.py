"""The script that runs on a lent machine, run on this one; and the two ways by which its secret comes there."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from provisioner.controller.rest import Answer, Rest
from provisioner.controller.script_console import MARK
from provisioner.loans.console_way import ConsoleWay
from provisioner.loans.machine import Input, Machine, MachineError, Output
from provisioner.loans.marks import new_name
from provisioner.model.errors import ControllerError
from tests.standin_process import eventually

SECRET = "0123456789abcdef" * 4
NAME = new_name("n")


class Here:
    """This machine, with something in Java's place that waits, and has a child that does."""

    def __init__(self, folder: Path, body: str = "sleep 300 & exec sleep 300") -> None:
        program = folder / "java"
        program.write_text(f'#!/bin/sh\necho "$@" >>{folder}/arguments\nenv >{folder}/environment\n{body}\n')
        program.chmod(0o755)
        self.java = str(program)

    def run(self, script: str, given: Input | None) -> Output:
        data = b"" if given is None else given.secret.encode() + b"\n" + given.jar
        ended = subprocess.run(
            ["/bin/sh", "-c", script],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
            env={**os.environ, "LENDERS_SECRET": "hidden"},
        )
        return Output(status=ended.returncode, text=ended.stdout.decode())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "some where"
    yield folder / "loans"
    Machine(Here(tmp_path), root=str(folder / "loans"), name=NAME).stop()
    assert marked() == []


def start(machine: Machine) -> str:
    return machine.start(agent_url="http://b:1/", secret=SECRET, jar=b"PK\x03\x04\nnot text\x00\n")


def marked() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"LOAN={NAME}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_start_and_stop_leave_what_they_should_and_nothing_else(root: Path, tmp_path: Path) -> None:
    machine = Machine(Here(tmp_path), root=str(root), name=NAME)
    machine.check()
    assert not root.exists()
    assert start(machine) == "started"
    assert start(machine) == "running"
    eventually(lambda: len(marked()) == 2, "the agent and its child run")
    home = root / NAME
    assert (home / "secret").read_text() == SECRET
    assert (home / "agent.jar").read_bytes() == b"PK\x03\x04\nnot text\x00\n"
    assert [f.stat().st_mode & 0o077 for f in (root, home, home / "secret")] == [0, 0, 0]
    arguments = (tmp_path / "arguments").read_text()
    assert f"-secret @{home}/secret -name {NAME} -workDir {home}/work -webSocket" in arguments
    environment = (tmp_path / "environment").read_text()
    assert SECRET not in arguments + environment
    assert "hidden" not in environment
    assert machine.stop() == "stopped"
    assert marked() == []
    assert not root.exists()
    assert machine.stop() == "stopped"


def test_an_agent_that_ends_at_once_says_why_and_can_be_started_again(root: Path, tmp_path: Path) -> None:
    machine = Machine(Here(tmp_path, body="echo the jar is broken; exit 1"), root=str(root), name=NAME)
    with pytest.raises(MachineError, match=r"the agent ended at once: .*the jar is broken"):
        start(machine)
    assert start(Machine(Here(tmp_path), root=str(root), name=NAME)) == "started"


def test_two_that_start_it_at_once_start_it_once(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    machine = Machine(Here(tmp_path), root=str(root), name=NAME)
    threads = [threading.Thread(target=lambda: said.append(start(machine))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("started") == 1
    assert set(said) <= {"started", "running", "starting"}
    eventually((tmp_path / "arguments").exists, "it runs")
    time.sleep(0.2)
    assert len((tmp_path / "arguments").read_text().splitlines()) == 1


def test_an_agent_that_does_not_listen_to_term_is_ended_all_the_same(root: Path, tmp_path: Path) -> None:
    machine = Machine(Here(tmp_path, body="trap '' TERM; while :; do sleep 1; done"), root=str(root), name=NAME)
    assert start(machine) == "started"
    assert machine.stop() == "stopped"
    assert marked() == []


def test_what_is_missing_there_is_told_before_anything_is_begun(root: Path, tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.java = "/nowhere/java"
    with pytest.raises(MachineError, match="there is no Java executable /nowhere/java"):
        Machine(here, root=str(root), name=NAME).check()
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"the folder .* cannot be made: mkdir"):
        Machine(Here(tmp_path), root=str(tmp_path / "file" / "x"), name=NAME).check()


class Console:
    """A node's script console that does what the agent would with the key, and remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.keys: dict[str, rsa.RSAPrivateKey] = {}  # in the agent's memory
        self.before_run: Callable[[], None] = lambda: None
        self.secret = ""
        self.timeout_s = 10.0

    def call(self, _method: str, path: str, **options: Any) -> Answer:
        assert path == "computer/n%201/scriptText"
        groovy = options["form"]["script"]
        self.sent.append(groovy)
        found = re.search(r"'([A-Za-z0-9+/=]+)'\.decodeBase64", groovy)
        assert found
        ask = json.loads(base64.b64decode(found[1]))
        self.sent.append(json.dumps(ask))
        key = f"{ask['name']}.{ask.get('nonce')}"
        if "generateKeyPair" in groovy:
            self.keys[key] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = (
                self.keys[key]
                .public_key()
                .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            )
            said: dict[str, object] = {"key": base64.b64encode(public).decode()}
        elif "script" not in ask:
            self.keys.pop(key, None)
            said = {"forgotten": True}
        else:
            then, self.before_run = self.before_run, lambda: None
            then()
            if ask["secret"]:
                oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA256(), label=None)
                self.secret = self.keys.pop(key).decrypt(base64.b64decode(ask["secret"]), oaep).decode()
            said = {"status": 0, "text": "started\n"}
        text = f"{MARK}{json.dumps(said)}\n"
        return Answer(status=200, headers={}, content=text.encode())


def test_a_script_that_is_kept_for_audit_does_not_hold_the_secret() -> None:
    console = Console()
    rest: Rest = console  # type: ignore[assignment]
    machine = Machine(ConsoleWay(rest, node="n 1", name=NAME), root="/r", name=NAME)
    assert start(machine) == "started"
    assert console.secret == SECRET
    for sent in console.sent:
        assert SECRET not in sent
        assert base64.b64encode(SECRET.encode()).decode()[:40] not in sent


def test_two_starts_at_once_have_each_a_key_of_their_own() -> None:
    console = Console()
    rest: Rest = console  # type: ignore[assignment]
    machines = [Machine(ConsoleWay(rest, node="n 1", name=NAME), root="/r", name=NAME) for _ in range(2)]
    said: list[str] = []
    console.before_run = lambda: said.append(start(machines[1]))
    said.append(start(machines[0]))
    assert said == ["started", "started"]
    assert console.keys == {}


def test_no_key_stays_in_the_agent_where_a_start_breaks_off() -> None:
    console = Console()
    rest: Rest = console  # type: ignore[assignment]

    def cut() -> None:
        raise ControllerError("no answer within 60 s", retryable=True)

    console.before_run = cut
    with pytest.raises(ControllerError, match="no answer"):
        start(Machine(ConsoleWay(rest, node="n 1", name=NAME), root="/r", name=NAME))
    assert console.keys == {}
