"""Jars that one agent fetched and the next is given: nothing that a build put there is taken."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

import pytest

from provisioner.backends.contract import Order
from provisioner.backends.docker import fetched
from provisioner.backends.docker.engine import Engine, RefusedError
from provisioner.backends.docker.fetched import GIVEN_MTIME, FetchedJars, checksum, verified

FIRST, SECOND = b"first jar" * 1000, b"second jar" * 1000


def path_of(content: bytes) -> str:
    name = checksum(content)
    return f"{name[:2]}/{name[2:]}.jar"


def packed(*files: tuple[str, bytes], unused: str = "", **changes: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files:
            entry = tarfile.TarInfo(f"jarCache/{path}")
            entry.size, entry.mtime = len(content), GIVEN_MTIME if path == unused else 1_700_000_000
            for key, value in changes.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Containers(Engine):
    """An engine in whose containers lies what the test says."""

    def __init__(self, endpoint: str = "unix:///nowhere.sock") -> None:
        super().__init__(endpoint=endpoint, tls=None, timeout_s=1)
        self.inside: dict[str, bytes] = {}
        self.asked: list[str] = []

    def start_of(self, path: str, *, query: Mapping[str, str], most_bytes: int, timeout_s: float) -> bytes:
        container = path.split("/")[2]
        self.asked.append(container)
        if container not in self.inside:
            raise RefusedError(404, "no such container")
        return self.inside[container][:most_bytes]


def order(agent: str = "a", **changes: object) -> Order:
    return Order(
        agent=agent,
        owner="o",
        image="i",
        command=("x",),
        remote_fs="/w",
        agent_jar=b"PK",
        jars_at="/w/remoting/jarCache",
        jars_of="http://here/",
        **changes,  # type: ignore[arg-type]
    )


def run(jars: FetchedJars, engine: Containers, agent: str, inside: bytes) -> Mapping[str, bytes]:
    given = jars.given(order(agent))
    engine.inside[agent] = inside
    jars.look(agent, agent)
    return given


def test_checksum_is_the_one_that_remoting_makes_of_sha_256() -> None:
    # SHA-256 of nothing: e3b0c44298fc1c14 9afbf4c8996fb924 27ae41e4649b934c a495991b7852b855, halves joined by xor
    assert checksum(b"") == f"{0xE3B0C44298FC1C14 ^ 0x27AE41E4649B934C:X}{0x9AFBF4C8996FB924 ^ 0xA495991B7852B855:X}"
    assert len(checksum(FIRST)) == 32


def test_next_agent_is_given_what_the_first_one_fetched() -> None:
    engine = Containers()
    jars = FetchedJars(engine)
    assert run(jars, engine, "a", packed((path_of(FIRST), FIRST))) == {}
    assert jars.given(order("b")) == {path_of(FIRST): FIRST}


def test_content_that_is_not_what_its_name_says_is_not_taken() -> None:
    assert verified(packed((path_of(FIRST), SECOND))) == {}
    assert verified(packed((path_of(FIRST).lower(), FIRST))) == {}
    assert verified(packed((f"../{path_of(FIRST)}", FIRST))) == {}
    assert verified(packed((f"x/{path_of(FIRST)}", FIRST))) == {}
    assert set(verified(packed((path_of(FIRST), SECOND), (path_of(SECOND), SECOND)))) == {path_of(SECOND)}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_plain_file_is_not_taken(kind: bytes) -> None:
    assert verified(packed((path_of(FIRST), FIRST), type=kind, linkname="/etc/passwd")) == {}


def test_an_archive_cut_short_gives_what_came_before() -> None:
    whole = packed((path_of(FIRST), FIRST), (path_of(SECOND), SECOND))
    assert set(verified(whole[: 512 + len(FIRST) + 2000])) == {path_of(FIRST)}
    for end in range(0, len(whole), 997):
        verified(whole[:end])
    assert verified(b"no archive at all" * 100) == {}


def test_only_agents_of_the_same_controller_and_jar_share() -> None:
    engine = Containers()
    jars = FetchedJars(engine)
    run(jars, engine, "a", packed((path_of(FIRST), FIRST)))
    other = Order(
        agent="b",
        owner="o",
        image="i",
        command=("x",),
        remote_fs="/w",
        agent_jar=b"PK",
        jars_at="/w/remoting/jarCache",
        jars_of="http://there/",
    )
    assert jars.given(other) == {}


def test_only_the_first_ends_are_looked_at() -> None:
    engine = Containers()
    jars = FetchedJars(engine)
    for number in range(10):
        run(jars, engine, f"a{number}", packed((path_of(FIRST), FIRST)))
    assert engine.asked == [f"a{number}" for number in range(fetched._FIRST_LOOKS)]


def test_an_agent_that_never_came_so_far_teaches_nothing_and_hurts_nothing() -> None:
    engine = Containers()
    jars = FetchedJars(engine)
    jars.given(order("a"))
    jars.look("a", "gone")
    jars.look("a", "gone")
    jars.look("never-started", "gone")
    jars.given(order("b"))
    jars.look("b", None)
    assert engine.asked == ["gone"]
    assert jars.given(order("c")) == {}


def test_a_jar_that_no_agent_uses_is_given_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "_LOOK_EVERY_S", -1.0)
    engine = Containers()
    jars = FetchedJars(engine)
    run(jars, engine, "first", packed((path_of(FIRST), FIRST), (path_of(SECOND), SECOND)))
    later = packed((path_of(FIRST), FIRST), (path_of(SECOND), SECOND), unused=path_of(SECOND))
    for number in range(fetched._UNUSED_LOOKS):
        assert set(jars.given(order(f"b{number}"))) == {path_of(FIRST), path_of(SECOND)}
        engine.inside[f"b{number}"] = later
        jars.look(f"b{number}", f"b{number}")
    assert set(jars.given(order("last"))) == {path_of(FIRST)}


def test_no_more_than_a_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "_MOST_BYTES", len(FIRST) + 10)
    engine = Containers()
    jars = FetchedJars(engine)
    run(jars, engine, "a", packed((path_of(FIRST), FIRST), (path_of(SECOND), SECOND)))
    assert set(jars.given(order("b"))) == {path_of(FIRST)}
