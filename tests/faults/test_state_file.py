"""The disk is full, the state file is locked or damaged: the loops go on, readiness tells, nothing is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.model.errors import LaunchError, Reason
from provisioner.records.store import Store, StoreError
from provisioner.web.health import health, readiness
from tests.faults.estate import Estate


def fill_disk(store: Store) -> None:
    """SQLite's own answer of a full disk, without filling one."""
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store._db.execute("INSERT INTO meta VALUES ('ballast', ?)", ("x" * 200_000,))
    filler = 0
    while True:  # the last bytes of the pages that there are
        try:
            store._db.execute("INSERT INTO meta VALUES (?, ?)", (f"filler-{filler}", "x" * 200))
        except sqlite3.OperationalError:
            return
        filler += 1


def make_room(store: Store) -> None:
    store._db.execute("PRAGMA max_page_count = 1000000")


@pytest.mark.parametrize("at_s", [0.0, 1.0, 3.0, 5.0])
def test_a_file_that_refuses_every_write_at_any_time_delays_and_loses_nothing(tmp_path: Path, at_s: float) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        for _ in range(4):
            estate.jenkins.queue(build_s=4)
        if at_s:
            estate.pass_s(at_s)
        estate.store._db.execute("PRAGMA query_only = ON")
        estate.pass_s(120)
        assert health(estate.engine).ok
        assert not readiness(estate.engine).ok
        assert "cannot be written" in str(readiness(estate.engine).detail["state"])
        estate.store._db.execute("PRAGMA query_only = OFF")
        estate.finish()
        assert set(estate.outcomes().values()) == {"ran"}
        assert readiness(estate.engine).ok


def test_a_launch_that_fails_while_the_disk_is_full_is_still_told(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        for engine in estate.engines.values():
            engine.fail_with = LaunchError("no such image", reason=Reason.IMAGE_NOT_FOUND)
            engine.pull_s = 5
        estate.start()
        estate.jenkins.queue()
        estate.pass_s(2)
        fill_disk(estate.store)
        estate.pass_s(60)
        make_room(estate.store)
        estate.finish()
        assert estate.outcomes() == {0: "ended: image_not_found"}


def test_killed_while_the_disk_is_full_the_next_one_finds_everything(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        for _ in range(3):
            estate.jenkins.queue(build_s=30)
        estate.pass_s(5)
        fill_disk(estate.store)
        estate.pass_s(40)
        estate.kill()
        estate.start()
        estate.finish()
        assert set(estate.outcomes().values()) == {"ran"}


def test_a_state_file_that_another_program_has_locked_is_written_as_soon_as_it_lets_go(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.store._db.execute("PRAGMA busy_timeout = 1")
        estate.jenkins.queue()
        with closing(sqlite3.connect(estate.settings.state_file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            estate.pass_s(20)
            assert "locked" in str(readiness(estate.engine).detail["state"])
            assert not estate.jenkins.registered, "no act without its intent on disk"
            other.execute("ROLLBACK")
        estate.finish()
        assert estate.outcomes() == {0: "ran"}


def test_a_damaged_state_file_is_kept_aside_and_its_agents_are_adopted(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.jenkins.queue(build_s=120)
        estate.pass_s(10)
        estate.kill()
        file = estate.settings.state_file
        for path in file.parent.glob(f"{file.name}-*"):
            path.unlink()
        file.write_bytes(b"\x00not a database" * 100)
        estate.start()
        assert estate.store.set_aside is not None
        estate.pass_s(60)
        assert [t.agent.state.value for t in estate.desk.agents.values()] == ["running"]
        estate.finish()
        assert estate.outcomes() == {0: "ran"}


def test_one_record_that_cannot_be_read_is_no_reason_to_forget_the_others(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.jenkins.queue(build_s=120)
        estate.jenkins.queue(build_s=120)
        estate.pass_s(10)
        estate.kill()
        with closing(sqlite3.connect(estate.settings.state_file, isolation_level=None)) as db:
            name = db.execute("SELECT min(name) FROM agents").fetchone()[0]
            db.execute("UPDATE agents SET record = 'no JSON' WHERE name = ?", (name,))
        estate.start()
        assert len(estate.desk.agents) == 1
        estate.finish()
        assert set(estate.outcomes().values()) == {"ran"}


def test_a_transaction_that_fails_leaves_nothing_of_it(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "state.db", "test")) as store:
        store._db.execute("PRAGMA max_page_count = 1")  # as many as there are
        with pytest.raises(StoreError, match="full"), store.together():  # noqa: PT012  (both belong to it)
            store.set_meta("one", "1")
            store.set_meta("two", "x" * 10_000_000)
        make_room(store)
        assert store.meta("one") is None
        store.set_meta("three", "3")
        assert store.problem == ""


def test_who_it_is_survives_the_loss_of_the_state_file_and_older_ones_sort_first(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with closing(Store(file, "test")) as store:
        first = store.holder
    file.write_bytes(b"no database")
    with closing(Store(file, "test")) as store:
        assert store.set_aside is not None
        assert store.holder == first
    for path in tmp_path.glob("state.db*"):
        if path.suffix != ".lock":
            path.unlink()
    with closing(Store(file, "test")) as store:
        assert store.holder == first
    with closing(Store(tmp_path / "other.db", "test")) as other:
        assert other.holder > first


def test_a_folder_in_the_place_of_the_state_file_is_told_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "state.db"
    folder.mkdir()
    with pytest.raises(StoreError, match=r"state\.db cannot be made: it is a folder; name a file in `state`"):
        Store(folder, "test")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_state_file_that_the_system_does_not_let_us_open_is_told(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.symlink_to(file)
    with pytest.raises(StoreError, match=r"state\.db cannot be opened: Too many levels of symbolic links"):
        Store(file, "test")


def test_a_sound_file_that_somebody_has_locked_at_the_start_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.records.store._BUSY_S", 0.1)
    path = tmp_path / "state.db"
    Store(path, "test").close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="cannot be opened: database is locked"):
            Store(path, "test")
    assert sorted(p.name for p in tmp_path.glob("*damaged*")) == []
    Store(path, "test").close()
