"""A running sidecar, asked over HTTP by the verbs of the command line."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

import requests

from provisioner.commands.options import add_config
from provisioner.model.errors import ConfigError, ProvisionerError

_CONNECT_S = 5.0
_ANSWER_S = 10.0  # it answers from what it knows; providers that are asked for their version have 3 s
_WORK_S = 60.0  # to delete something it may have to ask the controller first
_SILENCE_S = 35.0  # a followed log has a sign of life every 15 s
_LONG = 8000  # so long a request may be for everyone on the way
#: What was asked is wrong: not understood, or too long.
_ASKED_WRONG = frozenset({400, 414, 431})
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (where to ask one that listens everywhere)


def add_remote(parser: argparse.ArgumentParser) -> None:
    """`-c FILE`, or `--url` and `--token-file`."""
    add_config(parser)
    parser.add_argument("--url", metavar="URL", help="a running sidecar (default: `http.listen` of the configuration)")
    parser.add_argument(
        "--token-file", metavar="FILE", help="the file of its token (default: that of the configuration)"
    )


class Lost(ProvisionerError):  # noqa: N818  (a state of the other side)
    """The sidecar does not answer, or stopped in the middle of an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One server-sent event."""

    kind: str
    data: Mapping[str, object]


class Remote:
    """One sidecar.

    Args:
        url: where it listens.
        token_file: the file of its token.
    """

    def __init__(self, url: str, token_file: Path) -> None:
        self.url = url.rstrip("/")
        self._token_file = token_file
        self._session = requests.Session()
        # neither a proxy nor a netrc of the environment may see or replace the token
        self._session.trust_env = False
        self._session.verify = os.environ.get("SSL_CERT_FILE") or True
        self._session.headers["Authorization"] = f"Bearer {_read(token_file, url)}"

    @classmethod
    def of(cls, args: argparse.Namespace) -> Remote:
        """The one that the options name.

        Raises:
            ConfigError: they name none.
        """
        if args.url and args.token_file:
            return cls(_checked(args.url), Path(args.token_file))
        from provisioner.config import load  # noqa: PLC0415  (slow to load, and not needed with both options)

        try:
            settings = load(args.config)
        except ConfigError as error:
            if not args.url:
                raise
            raise ConfigError(
                f"{error.message}\nor name the sidecar's token file beside --url, with --token-file"
            ) from None
        token_file = Path(args.token_file) if args.token_file else settings.token_file
        if args.url:
            return cls(_checked(args.url), token_file)
        host, port = settings.http.host, settings.http.port
        if port == 0:
            raise ConfigError("http.listen takes any free port; name the running sidecar with --url")
        host = _WILDCARDS.get(host, host)
        return cls(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", token_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, path: str, **query: str) -> dict[str, object]:
        """What is there."""
        return self._json(self._send("GET", path, query=query))

    def post(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        """Have something done."""
        return self._json(self._send("POST", path, body=body or {}))

    def delete(self, path: str, **query: str) -> dict[str, object]:
        """Have something removed."""
        return self._json(self._send("DELETE", path, query=query, read_s=_WORK_S))

    def text(self, path: str) -> str:
        """What is there, as text."""
        answer = self._send("GET", path)
        answer.encoding = "utf-8"
        return answer.text

    def events(self, path: str, **query: str) -> Iterator[Event]:
        """Server-sent events until the sidecar ends them.

        Raises:
            Lost: it went away before.
        """
        with self._send("GET", path, query=query, stream=True, read_s=_SILENCE_S) as answer:
            answer.encoding = "utf-8"
            kind = ""
            try:
                # only \n ends a line here; what else Python takes for an end may stand in the data
                for line in answer.iter_lines(chunk_size=1, delimiter=b"\n"):
                    field, _, value = line.decode("utf-8", "replace").partition(": ")
                    if field == "event":
                        kind = value
                    elif field == "data":
                        yield Event(kind=kind, data=json.loads(value))
            except (requests.RequestException, ValueError) as error:
                raise Lost(f"the sidecar at {self.url} went away in the middle of its answer") from error

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        stream: bool = False,
        read_s: float | None = None,
    ) -> requests.Response:
        try:
            answer = self._session.request(
                method,
                f"{self.url}/api/v1/{path}",
                params=query,
                json=body,
                stream=stream,
                timeout=(_CONNECT_S, _ANSWER_S if read_s is None else read_s),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise ProvisionerError(self._untrusted(error)) from error
        except requests.Timeout as error:
            raise Lost(f"the sidecar at {self.url} does not answer in time") from error
        except requests.RequestException as error:
            raise Lost(
                f"no sidecar answers at {self.url}; start it with `provisioner run`, or name another with --url"
            ) from error
        if answer.status_code >= 300:
            with answer:
                told = self._refusal(answer)
                if answer.status_code in _ASKED_WRONG:
                    raise ConfigError(told)  # whatever the sidecar knows
                raise ProvisionerError(told)
        return answer

    def _refusal(self, answer: requests.Response) -> str:
        if answer.status_code == 401:
            return f"the sidecar at {self.url} does not take the token of {self._token_file}; name its own file"
        try:
            said = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            length = len(answer.request.url or "")
            if answer.status_code in _ASKED_WRONG and length > _LONG:  # refused before anybody read it
                return f"what is asked is too long: a request of {length} characters; ask for less"
            return f"what answers at {self.url} is no sidecar: status {answer.status_code}; check the URL"
        return str(said)

    def _untrusted(self, error: requests.exceptions.SSLError) -> str:
        told = str(error)
        # two releases of OpenSSL name an answer that is not TLS in two ways
        if "WRONG_VERSION_NUMBER" in told or "record layer failure" in told:
            return f"{self.url} does not speak TLS; write http{self.url.removeprefix('https')}"
        return f"the certificate of {self.url} is not trusted: {error}"

    def _json(self, answer: requests.Response) -> dict[str, object]:
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ProvisionerError(f"what answers at {self.url} is no sidecar; check the URL")
        return body


def segment(name: str) -> str:
    """A name as one part of a path."""
    # a dot alone would be taken for this folder and vanish on the way
    return quote(name, safe="").replace(".", "%2E") if name.strip(".") == "" else quote(name, safe="")


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--url {url} is no http or https URL; write one such as http://127.0.0.1:8085")
    return url


def _read(file: Path, url: str) -> str:
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ProvisionerError(
            f"the token file {file} cannot be read: {why}; the sidecar at {url} makes it at its first start, "
            "readable by its own user"
        ) from error
    if not token.isprintable() or not token:
        raise ProvisionerError(f"the token file {file} holds no token")
    return token
