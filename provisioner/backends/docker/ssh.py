"""The way to an engine over SSH, as `docker -H ssh://…` goes: `docker system dial-stdio` at the other end.

The host key must be known beforehand; nothing is trusted on first use. An SSH server takes ten sessions for one
login (its `MaxSessions`), and an engine needs more than that in a burst: there are as many logins as it takes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import paramiko
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from provisioner.backends.endpoint_files import SshFiles

#: Below the ten that OpenSSH allows, for those that it has not seen end yet.
_SESSIONS = 8
_COMMAND = "docker system dial-stdio"
_PORT = 22
_KEEP_ALIVE_S = 15
_SAID_BYTES = 2000


class SshError(OSError):
    """There is no way through; the message says why in plain words."""


@dataclass(slots=True)
class _Login:
    client: paramiko.SSHClient
    channels: set[paramiko.Channel] = field(default_factory=set)

    @property
    def works(self) -> bool:
        transport = self.client.get_transport()
        return transport is not None and transport.is_active()

    def busy(self) -> int:
        self.channels = {channel for channel in self.channels if not channel.closed}
        return len(self.channels)


class SshWay:
    """Connections to one engine's API through SSH. Safe in any thread.

    Args:
        endpoint: ssh://USER@HOST[:PORT].
        files: keys.
        connect_s: the longest wait for a login or for a session.
    """

    def __init__(self, endpoint: str, files: SshFiles | None, connect_s: float) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port, self._user = parts.hostname or "", parts.port or _PORT, parts.username
        self._files = files
        self._connect_s = connect_s
        self._lock = threading.Lock()
        self._logins: list[_Login] = []
        self._closed = False

    def dial(self) -> paramiko.Channel:
        """A connection to the engine's API.

        Raises:
            SshError: with the reason.
        """
        with self._lock:
            if self._closed:
                raise SshError("the connection was closed")
            login = self._free_login()
            try:
                channel = login.client.get_transport().open_session(timeout=self._connect_s)  # type: ignore[union-attr]
                login.channels.add(channel)
            except (paramiko.SSHException, OSError, EOFError, AttributeError) as error:
                self._drop(login)
                raise SshError(f"{self._host} opens no session: {_words(error)}") from error
        try:
            channel.settimeout(self._connect_s)
            channel.exec_command(_COMMAND)
        except (paramiko.SSHException, OSError, EOFError) as error:
            channel.close()
            raise SshError(f"{self._host} does not run `{_COMMAND}`: {_words(error)}") from error
        return channel

    def _free_login(self) -> _Login:
        for login in [login for login in self._logins if not login.works]:
            self._drop(login)
        for login in self._logins:
            if login.busy() < _SESSIONS:
                return login
        login = _Login(self._log_in())
        self._logins.append(login)
        return login

    def _log_in(self) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        key = self._files.key if self._files else None
        try:
            known = self._files.known_hosts if self._files else None
            client.load_system_host_keys(known)
            client.connect(
                self._host,
                self._port,
                username=self._user,
                key_filename=key,
                allow_agent=key is None,
                look_for_keys=key is None,
                timeout=self._connect_s,
                banner_timeout=self._connect_s,
                auth_timeout=self._connect_s,
                channel_timeout=self._connect_s,
            )
            client.get_transport().set_keepalive(_KEEP_ALIVE_S)  # type: ignore[union-attr]
        except paramiko.BadHostKeyException as error:
            client.close()
            raise SshError(
                f"the host key of {self._host} is not the one in the known hosts: another machine"
            ) from error
        except paramiko.AuthenticationException as error:
            client.close()
            raise SshError(f"{self._host} does not let {self._user or 'us'} log in: {_words(error)}") from error
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            client.close()
            if "not found in known_hosts" in str(error):
                name = self._host if self._port == _PORT else f"[{self._host}]:{self._port}"
                raise SshError(f"the host key of {name} is not among the known hosts") from error
            raise SshError(f"no login at {self._host}: {_words(error)}") from error
        return client

    def _drop(self, login: _Login) -> None:
        if login in self._logins:
            self._logins.remove(login)
        login.client.close()

    def close(self) -> None:
        """Let go of all logins."""
        with self._lock:
            self._closed = True
            for login in tuple(self._logins):
                self._drop(login)


def _words(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    return str(error) or type(error).__name__


class _Connection(HTTPConnection):
    """A connection of the HTTP library whose socket is a session."""

    def __init__(self, way: SshWay) -> None:
        super().__init__("ssh.invalid")
        self._way = way
        self._channel: paramiko.Channel | None = None  # kept when the library has let go of its socket

    def connect(self) -> None:
        channel = self._channel = self._way.dial()
        timeout = self.timeout
        channel.settimeout(float(timeout) if isinstance(timeout, int | float) else None)
        self.sock = channel

    def send(self, data: Any) -> None:
        with self._explained():  # a far end that is not there may be gone before the request is out
            super().send(data)

    def getresponse(self) -> Any:
        with self._explained():
            return super().getresponse()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            said = self._last_words()
            if said:
                raise SshError(f"`{_COMMAND}` said: {said}") from error
            raise

    def _last_words(self) -> str:
        """What the far end's shell or command complained about, if it did."""
        said = b""
        with contextlib.suppress(OSError):
            if self._channel is not None:
                self._channel.settimeout(1.0)
                said = self._channel.recv_stderr(_SAID_BYTES)
        return " ".join(said.decode(errors="replace").split())


class _Pool(HTTPConnectionPool):
    def __init__(self, way: SshWay, maxsize: int) -> None:
        super().__init__("ssh.invalid", maxsize=maxsize)
        self._way = way

    def _new_conn(self) -> _Connection:
        return _Connection(self._way)


class SshAdapter(HTTPAdapter):
    """Sends a session's requests through SSH.

    Args:
        way: the way.
        max_pool_size: connections that are kept.
    """

    def __init__(self, way: SshWay, max_pool_size: int) -> None:
        self._way = way
        self._pool = _Pool(way, max_pool_size)
        super().__init__(max_retries=urllib3.Retry(0, read=False))

    def get_connection_with_tls_context(self, *_args: object, **_more: object) -> HTTPConnectionPool:
        """The one pool there is."""
        return self._pool

    def get_connection(self, *_args: object, **_more: object) -> HTTPConnectionPool:
        """The same for older versions of the library."""
        return self._pool

    def request_url(self, request: requests.PreparedRequest, _proxies: object) -> str:
        """The path alone; no proxy is ever between."""
        return str(request.path_url)

    def close(self) -> None:
        """Let go of every connection."""
        self._pool.close()
        self._way.close()
        super().close()


def end_stream(response: requests.Response) -> bool:
    """End an answer that another thread may be reading; False if it did not come through SSH."""
    channel = getattr(getattr(getattr(response.raw, "_fp", None), "fp", None), "channel", None)
    if not isinstance(channel, paramiko.Channel):
        return False
    channel.close()
    return True
