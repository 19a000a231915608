"""Bringing pip to a Python without it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.plumbing.plumbing_site import Site, load

if TYPE_CHECKING:
    from types import ModuleType

venv: ModuleType = load("tools/make_venv.py")
WHEEL = b"not really a wheel"


@pytest.fixture
def index(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    site.files["/simple/pip/"] = (
        f'<a href="../../f/pip-1.0.tar.gz#sha256=00">pip-1.0.tar.gz</a>'
        f'<a href="../../f/{venv.PIP_WHEEL}#sha256=11" data-requires-python="&gt;=3.10">{venv.PIP_WHEEL}</a>'
    ).encode()
    site.files[f"/f/{venv.PIP_WHEEL}"] = WHEEL
    monkeypatch.setattr(venv, "PIP_SHA256", hashlib.sha256(WHEEL).hexdigest())
    return site


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_pinned_wheel_is_found_on_the_page_of_the_index(index: Site, tmp_path: Path, slash: str) -> None:
    wheel = venv.fetch_pip(index.url + "simple" + slash, tmp_path)
    assert wheel.name == venv.PIP_WHEEL
    assert wheel.read_bytes() == WHEEL


def test_a_password_in_the_address_is_sent_and_never_shown(index: Site, tmp_path: Path) -> None:
    with_login = index.url.replace("http://", "http://me:s%40cret@")
    venv.fetch_pip(with_login + "simple", tmp_path)
    assert index.logins == ["Basic bWU6c0BjcmV0"] * 2  # the page and the file, on the same host
    with pytest.raises(SystemExit) as failed:
        venv.fetch_pip(with_login + "nowhere", tmp_path)
    assert "cret" not in str(failed.value)
    assert "PIP_INDEX_URL" in str(failed.value)


def test_another_file_under_its_name_is_refused(index: Site, tmp_path: Path) -> None:
    index.files[f"/f/{venv.PIP_WHEEL}"] = b"something else"
    with pytest.raises(SystemExit, match="has the checksum"):
        venv.fetch_pip(index.url + "simple", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_index_without_that_version_is_named(index: Site, tmp_path: Path) -> None:
    index.files["/simple/pip/"] = b'<a href="pip-1.0.tar.gz">pip-1.0.tar.gz</a>'
    with pytest.raises(SystemExit, match=f"127.0.0.1 does not have {venv.PIP_WHEEL}"):
        venv.fetch_pip(index.url + "simple", tmp_path)


def test_an_old_python_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "OLDEST", (9, 0))
    with pytest.raises(SystemExit, match=r"this project needs 9\.0 or newer"):
        venv.main()
