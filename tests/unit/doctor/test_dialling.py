"""What the doctor says of controllers that dial their agents."""

from __future__ import annotations

import base64
import json
import re
import socket
from typing import Any

import pytest

from provisioner.config import Settings, TransportKind
from provisioner.controller.rest import Answer, Rest
from provisioner.controller.script_console import MARK
from provisioner.doctor.dialling import examine_dialling
from provisioner.doctor.findings import Findings
from provisioner.model.errors import ControllerError

PLUGINS = "pluginManager/api/json?tree=plugins[shortName,active,version]"
CREDENTIALS = "credentials/store/system/domain/_/newCredentials"


class Pages:
    """A controller with these pages; its scripts say what a test wants."""

    def __init__(self, pages: dict[str, Any], said: str = "") -> None:
        self.pages = pages
        self.said = said
        self.scripts: list[str] = []

    def call(self, _method: str, path: str, **_options: Any) -> Answer:
        if path not in self.pages:
            raise ControllerError(f"no {path}", code=403)
        return Answer(status=200, headers={}, content=json.dumps(self.pages[path]).encode())

    def parsed(self, answer: Answer, _path: str) -> Any:
        return json.loads(answer.content)

    def script(self, groovy: str) -> str:
        self.scripts.append(groovy)
        return f"{MARK}{self.said}\n"


def told(pages: Pages, transport: str, *, administers: bool = True, **gateway: str) -> dict[str, tuple[str, str, str]]:
    settings = Settings.model_validate(
        {
            "id": "x",
            "controllers": [{"name": "main", "url": "http://j/", "user": "u", "token": {"env": "T"}}],
            "providers": [{"name": "here", "backend": "process", "max_agents": 1}],
            "templates": [{"name": "t", "labels": ["x"], "providers": ["here"]}],
            "gateway": gateway,
        }
    )
    dialled = settings.templates[0].model_copy(update={"transport": TransportKind(transport)})
    settings = settings.model_copy(update={"templates": (dialled,)})
    findings = Findings("controller main", [])
    rest: Rest = pages  # type: ignore[assignment]
    examine_dialling(settings, "main", rest, findings, administers=administers)
    return {f.check: (f.verdict.value, f.text, f.fix) for f in findings.found}


SSH = {"plugins": [{"shortName": "ssh-slaves", "active": True, "version": "2.9"}]}


def test_nothing_is_said_where_no_template_is_dialled() -> None:
    assert told(Pages({}), "websocket") == {}


def test_plugin_and_credentials_are_told_each_for_itself() -> None:
    found = told(Pages({PLUGINS: SSH, CREDENTIALS: {}}), "ssh")
    assert {check: verdict for check, (verdict, _, _) in found.items()} == {"ssh plugin": "ok", "credentials": "ok"}
    assert found["ssh plugin"][1] == "ssh-slaves 2.9"
    found = told(Pages({PLUGINS: {"plugins": [{"shortName": "ssh-slaves", "active": False, "version": "2"}]}}), "ssh")
    assert {check: verdict for check, (verdict, _, _) in found.items()} == {"ssh plugin": "fail", "credentials": "fail"}
    assert "Credentials/Create" in found["credentials"][2]
    assert told(Pages({"provisioner-bridge/status": {}}), "ssh")["credentials"][0] == "ok"


def test_the_controllers_way_to_a_gateway_is_tried_where_one_runs() -> None:
    pages = Pages({PLUGINS: SSH, CREDENTIALS: {}}, said="Connection refused")
    assert "free port" in told(pages, "ssh-gateway")["gateway"][1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listen, address = f"127.0.0.1:{port}", "gate.example.org:22"
        verdict, text, fix = told(pages, "ssh-gateway", listen=listen, address=address)["gateway"]
        assert (verdict, text) == ("fail", "the controller does not reach gate.example.org:22: Connection refused")
        assert "gateway.address" in fix
        packed = re.search(r"'([A-Za-z0-9+/=]+)'\.decodeBase64", pages.scripts[-1])
        assert packed is not None
        assert json.loads(base64.b64decode(packed[1])) == {"host": "gate.example.org", "port": 22}
        pages.said = "ok"
        assert told(pages, "ssh-gateway", listen=listen)["gateway"][0] == "ok"
        assert "administrators only" in told(pages, "ssh-gateway", administers=False, listen=listen)["gateway"][1]
    assert "does not run now" in told(pages, "ssh-gateway", listen=listen)["gateway"][1]


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("java.net.UnknownHostException: jenkins", "is not known where agents run"),
        ("Caused by: java.net.ConnectException: Connection refused", "inside a container 127.0.0.1 is itself"),
        ("Caused by: java.nio.channels.UnresolvedAddressException", "is not known where agents run"),
        ("HandshakeException: Response code was not 101: 404.", "takes no WebSocket"),
        ("HandshakeException: Response code was not 101: 403.", "refuses the agent"),
        ("java.net.http.HttpTimeoutException: request timed out", "look at firewall and `network`"),
        ("PKIX path building failed", "does not know who signed the certificate"),
        ("UnsupportedClassVersionError: class file version 61.0", "`java: injected`"),
        ("nothing known", ""),
    ],
)
def test_the_last_lines_of_an_agent_say_what_to_do(line: str, fix: str) -> None:
    from provisioner.doctor.trial import _meaning

    assert fix in _meaning(("INFO: x", line, "\tat y"))
    assert bool(_meaning((line,))) is bool(fix)
