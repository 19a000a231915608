"""The connection to the controller: JSON messages over a WebSocket written by hand, or over plain TCP."""

# ruff: noqa: PTH100, PTH103, PTH110, PTH112, PTH117, PTH118, PTH123, PTH208, SIM105, RUF100
# neither pathlib, contextlib nor typing: each import is paid at every start of an agent

from __future__ import annotations

import base64
import json
import os
import select
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAPABILITY = "rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0eQAAAAAAAAABAgABSgAEbWFza3hwAAAAAAAAAf4="
CONNECT_S = 10.0


class Refused(Exception):  # noqa: N818
    """The controller answered and said no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def split_url(url: str) -> tuple[str, int, str]:
    scheme, _, rest = url.partition("://")
    if scheme != "http":
        raise Refused(400, f"{url}: the stand-in's agent speaks plain http only")
    place, _, path = rest.partition("/")
    host, colon, port = place.rpartition(":")
    if not colon:
        host, port = place, "80"
    return host.strip("[]"), int(port), "/" + path.rstrip("/") + ("/" if path.rstrip("/") else "")


def request(url: str, path: str, headers: dict[str, str]) -> tuple[socket.socket, int, dict[str, str], bytes]:
    """One GET on a fresh connection. Gives socket, status, headers and what came after them."""
    host, port, base = split_url(url)
    conn = socket.create_connection((host, port), CONNECT_S)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = [f"GET {base}{path} HTTP/1.1", f"Host: {host}:{port}"] + [f"{k}: {v}" for k, v in headers.items()]
    conn.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    data = b""
    while b"\r\n\r\n" not in data:
        piece = conn.recv(65536)
        if not piece:
            raise ConnectionError("the controller closed the connection without an answer")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *more = head.decode("latin-1").split("\r\n")
    found = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in more)}
    return conn, int(first.split()[1]), found, rest


def connect(url: str, name: str, secret: str, cookie: str | None, web_socket: bool) -> Channel:
    return _web_socket(url, name, secret, cookie) if web_socket else _tcp(url, name, secret, cookie)


def _web_socket(url: str, name: str, secret: str, cookie: str | None) -> Channel:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Node-Name": name,
        "Secret-Key": secret,
        "X-Remoting-Capability": CAPABILITY,
    }
    if cookie:
        headers["Connection-Cookie"] = cookie
    conn, status, answer, rest = request(url, "wsagents/", headers)
    if status == 503:
        conn.close()
        raise ConnectionError("the controller is starting")
    if status != 101:
        conn.close()
        raise Refused(status, f"Handshake error. Response code was not 101: {status}.")
    return WebSocket(conn, answer.get("connection-cookie"), rest)


def _tcp(url: str, name: str, secret: str, cookie: str | None) -> Channel:
    conn, status, answer, _ = request(url, "tcpSlaveAgentListener/", {"Connection": "close"})
    conn.close()
    port = answer.get("x-jenkins-jnlp-port")
    if status != 200 or not port:
        raise ConnectionError(f"{url}tcpSlaveAgentListener/ answered {status} and announced no port")
    conn = socket.create_connection((split_url(url)[0], int(port)), CONNECT_S)
    channel = Lines(conn, cookie)
    channel.send({"name": name, "secret": secret, "cookie": cookie})
    while not channel.inbox and not channel.closed:
        channel.inbox += channel.receive(CONNECT_S)
    greeting = channel.inbox.pop(0) if channel.inbox else {"error": "the controller closed the connection"}
    if "error" in greeting:
        channel.close()
        raise Refused(403, greeting["error"])
    channel.cookie = greeting.get("cookie")
    return channel


class Channel:
    """Messages in, messages out."""

    conn: Any  # a socket, or what is read like one

    def __init__(self, conn: socket.socket, cookie: str | None, rest: bytes = b"") -> None:
        conn.settimeout(None)
        self.conn = conn
        self.cookie = cookie
        self.data = rest
        self.inbox: list[dict[str, Any]] = []
        self.closed = False

    def receive(self, wait: float | tuple[list[int], float | None]) -> list[dict[str, Any]]:
        """Messages that are there, or that come within the wait; `wait` is (files, seconds) or seconds."""
        files, seconds = wait if isinstance(wait, tuple) else ([], wait)
        messages, self.inbox = self.inbox, []
        messages += self.unpack()
        if messages:
            return messages
        ready, _, _ = select.select([self.conn, *files], [], [], seconds)
        if self.conn in ready:
            piece = self.conn.recv(262144)
            if not piece:
                self.closed = True
            self.data += piece
        return self.unpack()

    def close(self) -> None:
        self.conn.close()

    def unpack(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def send(self, message: dict[str, Any]) -> None:
        raise NotImplementedError


class Lines(Channel):
    """A JSON text on each line."""

    def unpack(self) -> list[dict[str, Any]]:
        *lines, self.data = self.data.split(b"\n")
        return [json.loads(line) for line in lines if line]

    def send(self, message: dict[str, Any]) -> None:
        self.conn.sendall(json.dumps(message).encode() + b"\n")


class Streams(Channel):
    """A JSON text on each line, over this process's own standard streams; builds get others."""

    def __init__(self) -> None:
        self.reads, self.writes = os.dup(0), os.dup(1)
        os.set_inheritable(self.reads, False)
        os.set_inheritable(self.writes, False)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self.conn = self
        self.cookie = None
        self.data = b""
        self.inbox = []
        self.closed = False

    def fileno(self) -> int:
        return self.reads

    def recv(self, size: int) -> bytes:
        return os.read(self.reads, size)

    def unpack(self) -> list[dict[str, Any]]:
        *lines, self.data = self.data.split(b"\n")
        return [json.loads(line) for line in lines if line]

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.writes, data) :]

    def close(self) -> None:
        os.close(self.writes)


class WebSocket(Channel):
    """Text frames; what the client sends is masked, as RFC 6455 wants it."""

    def unpack(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while True:
            frame = self._frame()
            if frame is None:
                return messages
            opcode, payload = frame
            if opcode == 8:
                self.closed = True
                return messages
            if opcode == 9:
                self._send(10, payload)
            elif opcode in (1, 2):
                messages.append(json.loads(payload))

    def _frame(self) -> tuple[int, bytes] | None:
        if len(self.data) < 2:
            return None
        length, at = self.data[1] & 127, 2
        if length == 126:
            at = 4
            length = struct.unpack(">H", self.data[2:4])[0] if len(self.data) >= 4 else 1 << 40
        elif length == 127:
            at = 10
            length = struct.unpack(">Q", self.data[2:10])[0] if len(self.data) >= 10 else 1 << 40
        if len(self.data) < at + length:
            return None
        opcode = self.data[0] & 15
        payload, self.data = self.data[at : at + length], self.data[at + length :]
        return opcode, payload

    def send(self, message: dict[str, Any]) -> None:
        self._send(1, json.dumps(message).encode())

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        head = bytes([128 | opcode])
        if size < 126:
            head += bytes([128 | size])
        elif size < 65536:
            head += bytes([128 | 126]) + struct.pack(">H", size)
        else:
            head += bytes([128 | 127]) + struct.pack(">Q", size)
        mask = os.urandom(4)
        pad = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
        self.conn.sendall(head + mask + masked)
