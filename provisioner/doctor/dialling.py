"""What a controller needs that dials its agents: plugin, credentials, and a way to the gateway."""

from __future__ import annotations

import socket

from provisioner.config import Settings, TransportKind
from provisioner.controller.rest import Answer, Rest
from provisioner.controller.script_console import MARK, packed, said
from provisioner.doctor.findings import Findings
from provisioner.model.errors import ControllerError
from provisioner.transports import transport

_LOOK_S = 5.0
_DIAL = """
def ask = new groovy.json.JsonSlurper().parseText(new String('{ask}'.decodeBase64(), 'UTF-8'))
try {{
    new Socket().withCloseable {{ it.connect(new InetSocketAddress(ask.host, ask.port), 5000) }}
    println '{mark}ok'
}} catch (IOException problem) {{
    println '{mark}' + problem.message
}}
"""


def examine_dialling(settings: Settings, controller: str, http: Rest, findings: Findings, *, administers: bool) -> None:
    """What the transports ssh and ssh-gateway need at one controller; nothing if no template there has them.

    Args:
        settings: the configuration.
        controller: its name.
        http: the same, to be asked.
        findings: where it is told.
        administers: whether the account may use the script console.
    """
    kinds = {t.transport for t in settings.templates if t.serves(controller)}
    used = {kind for kind in kinds if transport(kind.value).dialled}
    if not used:
        return
    _plugin(http, findings)
    if _get(http, "credentials/store/system/domain/_/newCredentials") is not None:
        findings.ok("credentials", "the account may make them")
    elif _get(http, "provisioner-bridge/status") is not None:
        findings.ok("credentials", "the bridge makes them")
    else:
        text = "the account may not make credentials, which Jenkins needs to dial an agent"
        findings.fail("credentials", text, "give it Credentials/Create, Update, Delete and View, or the bridge")
    if TransportKind.SSH_GATEWAY in used:
        _gateway(settings, http, findings, administers=administers)


def _plugin(http: Rest, findings: Findings) -> None:
    answer = _get(http, "pluginManager/api/json?tree=plugins[shortName,active,version]")
    if answer is None:
        findings.ok("ssh plugin", "which plugins there are is told to administrators only")
        return
    plugins = http.parsed(answer, "pluginManager/")["plugins"]
    found = next((p for p in plugins if p["shortName"] == "ssh-slaves" and p["active"]), None)
    if found is None:
        findings.fail("ssh plugin", "the plugin ssh-slaves is not there", "install it, or use transport: websocket")
    else:
        findings.ok("ssh plugin", f"ssh-slaves {found['version']}")


def _gateway(settings: Settings, http: Rest, findings: Findings, *, administers: bool) -> None:
    """It runs only beside a sidecar; what can be tried then is the controller's way to it."""
    here = settings.gateway.place
    host, port = settings.gateway.told or here
    port = port or here[1]
    if port == 0:
        findings.ok("gateway", "it takes a free port when the sidecar starts it; not tried")
        return
    where = f"{host}:{port}"
    if _closed("127.0.0.1" if settings.gateway.anywhere else here[0], here[1]):
        findings.ok("gateway", f"it does not run now; the sidecar starts it at {settings.gateway.listen}")
    elif not administers:
        findings.ok("gateway", f"it runs; whether the controller reaches {where} can be tried by administrators only")
    else:
        answer = http.script(_DIAL.format(ask=packed({"host": host, "port": port}), mark=MARK))
        words = said(answer)
        if words == "ok":
            findings.ok("gateway", f"the controller reaches it at {where}")
        else:
            problem = answer.strip() if words is None else words
            fix = "set `gateway.address` to an address that the controller reaches, and open it there"
            findings.fail("gateway", f"the controller does not reach {where}: {problem}", fix)


def _closed(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_LOOK_S):
            return False
    except OSError:
        return True


def _get(http: Rest, path: str) -> Answer | None:
    try:
        return http.call("GET", path, op="doctor")
    except ControllerError as error:
        if error.code in {401, 403, 404}:
            return None
        raise
