"""The Docker engine's API; the only module that knows the vendor's library.

The library brings the ways to an engine (unix, tcp with TLS; `ssh` is our own). Requests are made here, so that each
has a time-out of its own and a start needs no more of them than it must.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import requests
from docker.errors import DockerException, TLSParameterError
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from docker.types import CancellableStream

from provisioner.backends.docker.ssh import SshAdapter, SshError, SshWay, end_stream
from provisioner.backends.endpoint_files import SshFiles, TlsFiles
from provisioner.model.errors import LaunchError, Reason

_CONNECT_S = 5
_ANY_API = "1.40"  # until the engine has told its own
_CONNECTIONS = 48  # at least one for each thread that may use the engine
_KEPT_BYTES = 256 * 1024


class _UnixConnection(UnixHTTPConnection):
    """The library's, but it does not leave its socket open when nobody listens."""

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _UnixPool(UnixHTTPConnectionPool):
    def _new_conn(self) -> _UnixConnection:  # type: ignore[override]  # as the library's own
        return _UnixConnection(self.base_url, self.socket_path, _CONNECT_S)


class _UnixAdapter(UnixHTTPAdapter):
    def get_connection(self, url: Any, proxies: object = None) -> _UnixPool:  # noqa: ARG002  (the library's)
        with self.pools.lock:
            pool: _UnixPool | None = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _UnixPool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
            return pool


class _FileError(Exception):
    """A file of the encryption cannot be read."""


class RefusedError(Exception):
    """The engine answered, but not with what was asked for."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine answered."""

    content: bytes
    headers: Mapping[str, str]

    def json(self) -> object:
        """The content as JSON; None if there is none."""
        return json.loads(self.content) if self.content.strip() else None


class Stream:
    """Lines of JSON that the engine sends as things happen; another thread may close it."""

    def __init__(self, response: requests.Response, endpoint: str) -> None:
        self._response = response
        self._endpoint = endpoint
        self.closed = False

    def __iter__(self) -> Iterator[dict[str, object]]:
        rest = b""
        try:
            for piece in self._response.iter_content(chunk_size=None):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
        except (requests.RequestException, OSError, AttributeError, ValueError) as error:
            # a closed socket shows as any of these, depending on where the reader was
            if not self.closed:
                raise _unreachable(self._endpoint, error) from error

    def close(self) -> None:
        """End it; the engine gives up what it was doing for it. Idempotent."""
        if self.closed:
            return
        self.closed = True
        try:
            if not end_stream(self._response):
                CancellableStream(iter(()), self._response).close()
        except (DockerException, OSError, AttributeError):
            pass  # one that has ended has no socket
        finally:
            self._response.close()


class Engine:
    """One engine. Every method blocks, up to its time-out; call it from a thread.

    Args:
        endpoint: unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST.
        tls: files for tcp://; None: not encrypted.
        ssh: files for ssh://; None: those of the account.
        timeout_s: the longest wait for an answer.
    """

    def __init__(self, *, endpoint: str, tls: TlsFiles | None, ssh: SshFiles | None = None, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.tls = tls
        self._ssh = ssh
        self._way: SshWay | None = None
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self._api = ""  # the engine's own version of its API

    def _connected(self) -> docker.APIClient:
        """The session; made at the first use, also when the engine was away at that time."""
        client = self._client
        if client is not None:
            return client
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> docker.APIClient:
        try:
            _check_files(self.tls)
            tls = (
                TLSConfig(client_cert=(self.tls.cert, self.tls.key), ca_cert=self.tls.ca, verify=True)
                if self.tls
                else False
            )
            by_ssh = self.endpoint.startswith("ssh://")
            client = docker.APIClient(
                base_url="http://ssh.invalid:80" if by_ssh else self.endpoint,
                version=_ANY_API,
                timeout=_CONNECT_S,
                tls=tls,
                max_pool_size=_CONNECTIONS,
            )
            client.trust_env = False  # no proxy and no .netrc between us and the engine
            if self.endpoint.startswith("unix://"):
                path = self.endpoint.removeprefix("unix://")
                client.mount(
                    "http+docker://", _UnixAdapter(f"http+unix://{path}", _CONNECT_S, max_pool_size=_CONNECTIONS)
                )
            if by_ssh:
                self._way = SshWay(self.endpoint, self._ssh, _CONNECT_S)
                client.mount("http://", SshAdapter(self._way, max_pool_size=_CONNECTIONS))
            answer = client.request("GET", f"{client.base_url}/version", timeout=(_CONNECT_S, _CONNECT_S))
            answer.raise_for_status()
            self._api = str(answer.json()["ApiVersion"])
        except (_FileError, TLSParameterError) as error:
            raise LaunchError(
                f"the Docker engine at {self.endpoint} cannot be asked: {error}", reason=Reason.PROVIDER_UNREACHABLE
            ) from error
        except Exception as error:  # each way to an engine has a library with errors of its own
            raise _unreachable(self.endpoint, error) from error
        return client

    def api(self) -> str:
        """The version of its API; errors as for `call`."""
        self._connected()
        return self._api

    def dial_by_ssh(self) -> Any:
        """A connection of its own to an engine over SSH. Raises LaunchError as `call`, or OSError."""
        self._connected()
        if self._way is None:
            raise OSError(f"{self.endpoint} is not reached over SSH")
        return self._way.dial()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        archive: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One request.

        Args:
            method: of HTTP.
            path: below the API's version; names in it must be quoted with `name`.
            query: after the path.
            body: sent as JSON.
            archive: sent as a tar archive.
            headers: sent with it.
            timeout_s: instead of the engine's own, if it is shorter.

        Raises:
            RefusedError: the engine's answer is 400 or more.
            LaunchError: provider_unreachable; it does not answer (in time).
        """
        response = self._request(
            method, path, query, body, archive, headers or {}, self._patience_s(timeout_s), stream=False
        )
        return Answer(response.content, response.headers)

    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None,
    ) -> Stream:
        """A request whose answer comes in pieces.

        Args:
            method: of HTTP.
            path: below the API's version.
            query: after the path.
            headers: sent with it.
            silence_s: the longest wait for a next piece; None: for ever.

        Raises:
            RefusedError: as for `call`.
            LaunchError: as for `call`.
        """
        response = self._request(method, path, query, None, None, headers or {}, silence_s, stream=True)
        return Stream(response, self.endpoint)

    def tail(self, path: str, *, query: Mapping[str, str], timeout_s: float) -> bytes:
        """The end of an answer that may be of any size; errors as for `call`."""
        response = self._request("GET", path, query, None, None, {}, self._patience_s(timeout_s), stream=True)
        kept = b""
        try:
            for piece in response.iter_content(chunk_size=_KEPT_BYTES):
                kept = (kept + piece)[-_KEPT_BYTES:]
        except (requests.RequestException, OSError) as error:
            raise _unreachable(self.endpoint, error) from error
        finally:
            response.close()
        return kept

    def start_of(self, path: str, *, query: Mapping[str, str], most_bytes: int, timeout_s: float) -> bytes:
        """The start of an answer that may be of any size; errors as for `call`, and when it takes too long in all."""
        deadline = time.monotonic() + timeout_s
        response = self._request("GET", path, query, None, None, {}, self._patience_s(timeout_s), stream=True)
        pieces: list[bytes] = []
        try:
            for piece in response.iter_content(chunk_size=1 << 20):
                pieces.append(piece)
                most_bytes -= len(piece)
                if most_bytes <= 0:
                    break
                if time.monotonic() > deadline:
                    raise _unreachable(self.endpoint, TimeoutError(f"not done within {timeout_s:.0f} s"))
        except (requests.RequestException, OSError) as error:
            raise _unreachable(self.endpoint, error) from error
        finally:
            response.close()
        return b"".join(pieces)

    def _patience_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        archive: bytes | None,
        headers: Mapping[str, str],
        read_s: float | None,
        *,
        stream: bool,
    ) -> requests.Response:
        client = self._connected()
        sent = dict(headers)
        data: bytes | None = None
        if archive is not None:
            sent["Content-Type"], data = "application/x-tar", archive
        elif body is not None:
            sent["Content-Type"], data = "application/json", json.dumps(body).encode()
        try:
            response = client.request(
                method,
                f"{client.base_url}/v{self._api}{path}",
                params=query,
                data=data,
                headers=sent,
                timeout=(_CONNECT_S, read_s),
                stream=stream,
            )
            if response.status_code >= 400:
                message = _message(response.content)
                response.close()
                raise RefusedError(response.status_code, message)
        except (requests.RequestException, DockerException, OSError) as error:
            raise _unreachable(self.endpoint, error) from error
        return response

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


def _check_files(tls: TlsFiles | None) -> None:
    """The library says of a file that is missing only that it needs one."""
    for key, file in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)) if tls is not None else ():
        try:
            with Path(file).open("rb"):
                pass
        except OSError as error:
            raise _FileError(f"`tls.{key}` {file} cannot be read: {error.strerror}") from error


def name(text: str) -> str:
    """A name as a part of a path."""
    return quote(text, safe="/:@")


def filters(**values: str) -> dict[str, str]:
    """The query that lists only what has these values."""
    return {"filters": json.dumps({key: [value] for key, value in values.items()})}


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"]).strip()
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip()[:500]


def _unreachable(endpoint: str, error: Exception) -> LaunchError:
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None and not isinstance(
        cause, TimeoutError | SshError
    ):
        cause = deeper  # the innermost one says it in plain words
    text = (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)) or type(cause).__name__
    return LaunchError(
        f"the Docker engine at {endpoint} does not answer ({text}); it is asked again",
        reason=Reason.PROVIDER_UNREACHABLE,
        retryable=True,
    )
