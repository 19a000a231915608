"""Plain HTTP to one controller, through python-jenkins: every call timed out, counted and told in our own words.

The only module that imports `jenkins`. It is synchronous; `threads.py` keeps its calls bounded.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import jenkins
import requests
from requests.adapters import HTTPAdapter

from provisioner.config import Controller
from provisioner.model.errors import ControllerError

#: A connection that is not there within this time will not come; the rest of the time-out is for the answer.
CONNECT_S = 5.0
#: Threads that may hold a connection at once; more connections than that are never kept open.
CONNECTIONS = 16

_CRUMB_PATH = "crumbIssuer/api/json"
_LOGIN_PAGE = re.compile(r"/(login|securityRealm/\w+)/?$")
_MISSING_PERMISSION = re.compile(r"is missing the (.{3,80}?) permission")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer of the controller; redirects are told, never followed."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body; Jenkins says UTF-8 where it says anything."""
        return self.content.decode("utf-8", "replace")


class _CrumbRefused(Exception):  # noqa: N818  (never leaves this module)
    """The answer to the question for a crumb was an error."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class _Client(jenkins.Jenkins):  # type: ignore[misc]  # python-jenkins is untyped
    """python-jenkins with the session, login and crumbs it brings, minus what it decides for us.

    It has one time-out for all calls, follows a redirect to a login page as if that were success, and makes
    401, 403 and 500 one exception; the two hooks below are where it does so.
    """

    def __init__(self, url: str, user: str, token: str) -> None:
        super().__init__(url, user, token)
        # the library's own adapter keeps ten connections and logs a warning for each one more
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=2, pool_maxsize=CONNECTIONS))
        self._session.headers["Accept-Language"] = "en"  # a queue item's `why` is the reader's language
        self.now = threading.local()

    def _request(self, req: requests.Request, stream: bool | None = None) -> requests.Response:  # noqa: FBT001
        prepared = self._session.prepare_request(req)
        settings = self._session.merge_environment_settings(prepared.url, {}, stream, self._session.verify, None)
        timeout_s = self.now.timeout_s
        response: requests.Response = self._session.send(
            prepared, **settings, timeout=(min(CONNECT_S, timeout_s), timeout_s), allow_redirects=False
        )
        return response

    def _response_handler(self, response: requests.Response) -> requests.Response:
        if response.url.endswith(_CRUMB_PATH):
            if response.status_code == 404:  # cross-site protection is off
                raise jenkins.NotFoundException
            if response.status_code != 200:
                raise _CrumbRefused(response)
        return response


class Rest:
    """One controller's HTTP; safe to use from several threads at once.

    Args:
        name: the controller's name in the configuration, for messages.
        url: as the provisioner sees it.
        user: the account.
        token: its API token; a password works too.
        timeout_s: for calls that name no time-out of their own.
    """

    def __init__(self, *, name: str, url: str, user: str, token: str, timeout_s: float = 10.0) -> None:
        self.name = name
        self.url = url.rstrip("/") + "/"
        self.user = user
        self.timeout_s = timeout_s
        self._client = _Client(self.url, user, token)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._session = ""
        self._version = ""

    @classmethod
    def of(cls, controller: Controller) -> Self:
        """That of a configured controller, not yet spoken to.

        Raises:
            ConfigError: the token is missing.
        """
        return cls(
            name=controller.name,
            url=controller.url,
            user=controller.user,
            token=controller.token.read(),
            timeout_s=controller.timeout_s,
        )

    @property
    def session(self) -> str:
        """`X-Jenkins-Session` of the newest answer that had one; another one is another start of the controller."""
        return self._session

    @property
    def version(self) -> str:
        """`X-Jenkins` of the newest answer that had one; empty: what answered never said that it is a Jenkins."""
        return self._version

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Requests by (operation, status code); code 0: no answer."""
        with self._lock:
            return dict(self._counts)

    def close(self) -> None:
        """Let go of the connections."""
        self._client._session.close()  # noqa: SLF001  (python-jenkins has no public way)

    def get(self, path: str, *, op: str, timeout_s: float | None = None) -> Any:
        """GET, the JSON of the answer.

        Raises:
            ControllerError: with the HTTP status as code, 0 where there was no answer.
        """
        return self.parsed(self.call("GET", path, op=op, timeout_s=timeout_s), path)

    def post(self, path: str, json_body: object, *, op: str, timeout_s: float | None = None) -> Any:
        """POST JSON, the JSON of the answer; raises as `get` does."""
        return self.parsed(
            self.call("POST", path, op=op, timeout_s=timeout_s, json_body=json_body, expect=(200,)), path
        )

    def script(self, groovy: str, *, timeout_s: float | None = None) -> str:
        """Run a script in the script console; what it prints. 200 says nothing of the script's success."""
        answer = self.call(
            "POST", "scriptText", op="script", timeout_s=timeout_s, form={"script": groovy}, expect=(200,)
        )
        return answer.text

    def call(
        self,
        method: str,
        path: str,
        *,
        op: str,
        timeout_s: float | None = None,
        form: Mapping[str, str] | None = None,
        json_body: object = None,
        xml_body: bytes | None = None,
        expect: tuple[int, ...] | None = None,
    ) -> Answer:
        """One request, counted.

        Args:
            method: GET or POST.
            path: below the controller's URL, encoded, without a leading slash.
            op: what it is for, in a word; the metric's label.
            timeout_s: for each wait on the connection.
            form: fields of a form.
            json_body: a JSON body instead.
            xml_body: an XML body instead.
            expect: the statuses that are no error; default 200 for GET, 200 and 302 for POST.

        Raises:
            ControllerError: any other status, or no answer (code 0).
        """
        expect = expect or ((200,) if method == "GET" else (200, 201, 204, 302))
        response = self._send(method, path, op, timeout_s, form if xml_body is None else xml_body, json_body)
        if response.status_code == 403 and method == "POST" and self._client.crumb and "crumb" in response.text:
            # python-jenkins keeps a crumb for ever; one of another session is refused
            self._client.crumb = None
            response = self._send(method, path, op, timeout_s, form if xml_body is None else xml_body, json_body)
        if response.status_code not in expect:
            raise self._refusal(response, path)
        if _LOGIN_PAGE.search(urlsplit(response.headers.get("Location", "")).path):
            raise self._error(f"{op}: the answer leads to a login page", code=401)
        return Answer(status=response.status_code, headers=response.headers, content=response.content)

    def _send(
        self,
        method: str,
        path: str,
        op: str,
        timeout_s: float | None,
        form: Mapping[str, str] | bytes | None,
        json_body: object,
    ) -> requests.Response:
        client = self._client
        client.now.timeout_s = timeout_s or self.timeout_s
        headers = {"Content-Type": "application/xml"} if isinstance(form, bytes) else {}
        request = requests.Request(method, self.url + path, data=form, json=json_body, headers=headers)
        had_crumb = client.crumb
        try:
            response: requests.Response = client.jenkins_request(request, add_crumb=method != "GET")
        except _CrumbRefused as refused:
            self._count("crumb", refused.response.status_code)
            raise self._refusal(refused.response, _CRUMB_PATH) from refused
        except (jenkins.JenkinsException, requests.RequestException, ValueError) as error:
            self._count(op, 0)
            raise self._unreachable(error, client.now.timeout_s) from error
        if had_crumb is None and client.crumb is not None:
            self._count("crumb", 404 if client.crumb is False else 200)
        self._count(op, response.status_code)
        version, session = response.headers.get("X-Jenkins"), response.headers.get("X-Jenkins-Session")
        if version and session:
            self._version, self._session = version, session
        return response

    def _count(self, op: str, code: int) -> None:
        with self._lock:
            self._counts[op, str(code)] += 1

    def _error(self, what: str, *, code: int, retryable: bool = False) -> ControllerError:
        return ControllerError(f"controller {self.name} at {self.url}: {what}", code=code, retryable=retryable)

    def _unreachable(self, error: Exception, timeout_s: float) -> ControllerError:
        """No answer at all, in words; urllib3's own text names objects and addresses in memory."""
        text = str(error)
        if isinstance(error, jenkins.TimeoutException):
            what = f"no answer within {timeout_s:g} s"
        elif isinstance(error, requests.exceptions.SSLError):
            what = (
                "its certificate is not accepted; give the provisioner the authority that signed it"
                if "CERTIFICATE_VERIFY_FAILED" in text
                else "no TLS connection could be made; is it http:// there?"
            )
        elif "NameResolution" in text or "getaddrinfo" in text or "Name or service" in text:
            what = f"the host name {urlsplit(self.url).hostname} is not known here"
        elif "Connection refused" in text:
            what = "the connection was refused; nothing listens there"
        elif isinstance(error, requests.exceptions.ConnectionError):
            what = "the connection broke before there was an answer"
        else:
            what = f"no usable answer ({type(error).__name__})"
        return self._error(what, code=0, retryable=True)

    def _refusal(self, response: requests.Response, path: str) -> ControllerError:
        """An answer that is not the one asked for, in one sentence; bodies are told only where Jenkins means them."""
        status = response.status_code
        place = path.split("?", 1)[0]
        retryable = False
        if status == 401:
            what = f"it does not accept the user {self.user} with this token"
        elif status == 403:
            what = f"the user {self.user} {self._missing(response)} (asked for {place})"
        elif status == 404:
            what = f"there is no {place}, or the user {self.user} may not see it"
        elif status in (301, 302, 303, 307, 308):
            what = f"{place} leads to {response.headers.get('Location', 'nowhere')} instead of answering; check the URL"
        elif status == 423:
            what, retryable = _own_words(response), True
        elif status == 503 and "X-Jenkins" not in response.headers:
            what, retryable = "it is starting, or a proxy in front of it has nothing to pass the call to", True
        elif status >= 500:
            what, retryable = f"{place} failed inside the controller (status {status}); its log tells why", True
        else:
            what = f"{place} was refused (status {status}): {_own_words(response)}"
        return self._error(what, code=status, retryable=retryable)

    def _missing(self, response: requests.Response) -> str:
        found = _MISSING_PERMISSION.search(response.text)
        permission = found.group(1) if found else response.headers.get("X-Required-Permission")
        if permission:
            return f"lacks the permission {permission}"
        if "crumb" in response.text:
            return "was refused for want of a valid crumb; use an API token instead of a password"
        return f"is refused: {_own_words(response)}"

    def parsed(self, answer: Answer, path: str) -> Any:
        """The JSON of an answer.

        Raises:
            ControllerError: it is something else.
        """
        try:
            return json.loads(answer.content)
        except ValueError as error:
            place = path.split("?", 1)[0]
            kind = answer.headers.get("Content-Type", "an unnamed type")
            who = "" if "X-Jenkins" in answer.headers else "; is a Jenkins at this URL?"
            raise self._error(
                f"{place} answered {kind} where JSON was due{who}", code=answer.status, retryable=True
            ) from error


def _own_words(response: requests.Response) -> str:
    """Jenkins' own short message: the `X-Error` header, or the bridge's `error` field."""
    if "X-Error" in response.headers:
        return response.headers["X-Error"]
    if "json" in response.headers.get("Content-Type", ""):
        try:
            body = json.loads(response.content)
        except ValueError:
            body = None
        if isinstance(body, dict) and isinstance(body.get("error"), str):
            return str(body["error"])
    return response.reason or "no reason given"
