"""The one file that the launcher brings, by SFTP or SCP, and all that must not come that way."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.gateway.jar import MOST_BYTES, Jar, JarError
from provisioner.gateway.scp import Scp, ScpError
from provisioner.gateway.sftp import MOST_PACKET, Sftp, SftpError

ROOT = "/home/jenkins/agent"
FILE = f"{ROOT}/remoting.jar"
CONTENT = b"PK\3\4 the agent's jar " * 5000
OK, NO_FILE, DENIED, FAILURE = 0, 2, 3, 4
INIT, OPEN, CLOSE, READ, WRITE, LSTAT, REMOVE, MKDIR, REALPATH, STAT = 1, 3, 4, 5, 6, 7, 13, 14, 16, 17
STATUS, HANDLE, NAME, ATTRS = 101, 102, 104, 105
CREATE = 0x02 | 0x08 | 0x10  # write, create, truncate


def jar() -> Jar:
    return Jar(hashlib.sha256(CONTENT).hexdigest())


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


class Client:
    """As much of an SFTP client as the launcher's."""

    def __init__(self, file: Jar | None = None) -> None:
        self.jar = file or jar()
        self.server = Sftp(ROOT, self.jar)
        assert self.server.feed(struct.pack(">IBI", 5, INIT, 3)) == struct.pack(">IBI", 5, 2, 3)

    def ask(self, kind: int, content: bytes) -> tuple[int, bytes]:
        answer = self.server.feed(struct.pack(">IBI", len(content) + 5, kind, 7) + content)
        length, answered, number = struct.unpack_from(">IBI", answer)
        assert (length, number) == (len(answer) - 4, 7)
        return answered, answer[9:]

    def code(self, kind: int, content: bytes) -> int:
        answered, rest = self.ask(kind, content)
        assert answered == STATUS
        return int(struct.unpack_from(">I", rest)[0])

    def open(self) -> bytes:
        kind, rest = self.ask(OPEN, text(FILE) + struct.pack(">II", CREATE, 0))
        assert kind == HANDLE
        return rest

    def write(self, handle: bytes, offset: int, data: bytes) -> int:
        return self.code(WRITE, handle + struct.pack(">Q", offset) + text(data))


def test_the_launchers_own_course() -> None:
    client = Client()
    assert client.ask(STAT, text(ROOT))[0] == ATTRS
    assert client.code(REMOVE, text(FILE)) == NO_FILE
    assert client.code(STAT, text(FILE)) == NO_FILE
    handle = client.open()
    for at in range(0, len(CONTENT), 32768):
        assert client.write(handle, at, CONTENT[at : at + 32768]) == OK
    assert client.code(CLOSE, handle) == OK
    kind, rest = client.ask(STAT, text(FILE))
    assert kind == ATTRS
    assert struct.unpack_from(">IQ", rest)[1] == len(CONTENT)


def test_bytes_may_arrive_in_any_pieces() -> None:
    client = Client()
    content = text(FILE) + struct.pack(">II", CREATE, 0)
    packet = struct.pack(">IBI", len(content) + 5, OPEN, 7) + content
    answers = b"".join(client.server.feed(packet[at : at + 1]) for at in range(len(packet)))
    assert answers[4] == HANDLE


def test_another_jar_is_refused_at_its_end() -> None:
    client = Client()
    handle = client.open()
    assert client.write(handle, 0, b"another") == OK
    assert client.code(CLOSE, handle) == FAILURE
    assert client.code(STAT, text(FILE)) == NO_FILE


def test_it_is_written_from_front_to_end_and_not_without_limit() -> None:
    client = Client()
    handle = client.open()
    assert client.write(handle, 5, b"x") == FAILURE
    client.jar.size = MOST_BYTES
    assert client.write(handle, MOST_BYTES, b"x") == FAILURE


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        f"{ROOT}/../other/remoting.jar",
        f"{ROOT}/./remoting.jar",
        f"{ROOT}//remoting.jar",
        f"{FILE}/",
        f"{FILE}\0",
        "remoting.jar",
        f"{ROOT}/other.jar",
        f"{ROOT}/work/../remoting.jar",
        "",
    ],
)
def test_no_other_path_can_be_written_made_or_removed(path: str) -> None:
    client = Client()
    assert client.code(OPEN, text(path) + struct.pack(">II", CREATE, 0)) == DENIED
    assert client.code(OPEN, text(path) + struct.pack(">II", 1, 0)) == DENIED
    assert client.code(REMOVE, text(path)) == DENIED
    assert client.code(MKDIR, text(path) + struct.pack(">I", 0)) == DENIED


@pytest.mark.parametrize("kind", [READ, 11, 12, 15, 18, 19, 20, 21, 200, 201])
def test_reading_listing_renaming_linking_and_extensions_are_denied(kind: int) -> None:
    # 11, 12 list a folder, 15 removes one, 18 renames, 19 reads a link, 20 makes one, 200 is an extension
    content = text(ROOT) + text("/etc/passwd") + struct.pack(">QI", 0, 1)
    assert Client().code(kind, content) == DENIED


def test_the_jar_cannot_be_read_back() -> None:
    client = Client()
    client.open()
    assert client.code(OPEN, text(FILE) + struct.pack(">II", 1, 0)) == DENIED


def test_a_packet_that_is_too_long_ends_the_session() -> None:
    client = Client()
    with pytest.raises(SftpError):
        client.server.feed(struct.pack(">I", MOST_PACKET + 1))
    with pytest.raises(SftpError):
        Client().server.feed(struct.pack(">I", 0))


def test_nothing_goes_before_the_greeting() -> None:
    server = Sftp(ROOT, jar())
    with pytest.raises(SftpError):
        server.feed(struct.pack(">IBI", 5 + len(text(ROOT)), STAT, 1) + text(ROOT))


@given(st.binary(max_size=400))
def test_no_bytes_make_it_stumble(data: bytes) -> None:
    client = Client()
    try:
        client.server.feed(data)
        client.server.feed(struct.pack(">I", len(data) or 1) + data)
    except SftpError:
        pass
    assert client.jar.size in (None, 0)


def test_scp_takes_the_jar() -> None:
    file = jar()
    scp = Scp(file)
    assert scp.begin() == b"\0"
    assert scp.feed(f"C0644 {len(CONTENT)} remoting.jar\n".encode()) == b"\0"
    assert scp.feed(CONTENT) == b""
    assert scp.feed(b"\0") == b"\0"
    assert scp.feed(b"E\n") == b"\0"
    assert file.size == len(CONTENT)


@pytest.mark.parametrize(
    "order",
    [
        b"C0644 10 ../remoting.jar\n",
        b"C0644 10 /etc/passwd\n",
        b"C0644 10 other.jar\n",
        b"C0644 -1 remoting.jar\n",
        b"D0755 0 remoting.jar\n",
        b"C0644 ten remoting.jar\n",
        b"x" * 2000,
        b"\n",
    ],
)
def test_scp_takes_nothing_else(order: bytes) -> None:
    with pytest.raises(ScpError):
        Scp(jar()).feed(order)


def test_scp_takes_no_other_jar() -> None:
    scp = Scp(jar())
    scp.feed(b"C0644 5 remoting.jar\n")
    with pytest.raises(ScpError):
        scp.feed(b"other\0")


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_no_bytes_make_scp_stumble(pieces: list[bytes]) -> None:
    file = jar()
    scp = Scp(file)
    try:
        for piece in pieces:
            scp.feed(piece)
    except ScpError:
        return


def test_a_jar_is_checked_against_the_one_digest() -> None:
    file = Jar(hashlib.sha256(b"right").hexdigest())
    file.begin()
    file.write(0, b"ri")
    file.write(2, b"ght")
    file.check()
    file.begin()
    file.write(0, b"wrong")
    with pytest.raises(JarError):
        file.check()
