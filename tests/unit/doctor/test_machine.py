"""What the doctor says of the machine that the provisioner runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.config import Loans
from provisioner.doctor.findings import Finding, Verdict
from provisioner.doctor.machine import examine_machine
from tests.unit.lifecycle.conftest import settings


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSET", "t")


def found(tmp_path: Path, check: str) -> Finding:
    (one,) = [f for f in examine_machine(settings(tmp_path)).found if f.check == check]
    return one


def test_a_state_file_that_can_be_made_is_ok(tmp_path: Path) -> None:
    assert found(tmp_path, "state").verdict is Verdict.OK


def test_a_folder_in_the_place_of_the_state_file_fails(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    told = found(tmp_path, "state")
    assert told.verdict is Verdict.FAIL
    assert told.text == f"{tmp_path}/state.db is no file"


def test_every_file_that_cannot_be_read_fails(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("x")
    secrets = [{"file": str(there), "env": "A"}, {"file": "/nowhere/s", "env": "B"}]
    machine = {"controller": "main", "node": "n", "ssh": "u@h", "key": "/nowhere/k", "host_key": "ssh-ed25519 AAAA"}
    configured = settings(tmp_path, secrets=secrets).model_copy(
        update={"loans": Loans.model_validate({"machines": [machine]})}
    )
    told = [(f.check, f.text) for f in examine_machine(configured).found if f.verdict is Verdict.FAIL]
    assert told == [
        ("templates[0].secrets[1].file", "/nowhere/s cannot be read: No such file or directory"),
        ("loans.machines[0].key", "/nowhere/k cannot be read: No such file or directory"),
    ]
