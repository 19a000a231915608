"""The controller as a whole: root, login, account, crumb, quiet-down, script console, agent.jar, credentials."""

# ruff: noqa: ARG005  (every getter takes the object, also those that answer the same for all)

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree as ET

from aiohttp import web

from standin import http, script_console
from standin.export import Kind, View
from standin.jar import agent_jar
from standin.nodes import BUILT_IN
from standin.shapes import Of, job
from standin.shapes_nodes import LABEL_NAME

routes = web.RouteTableDef()

_VIEW = Kind("hudson.model.AllView", {"name": lambda of: "all", "url": lambda of: of.root}, frozenset({"name", "url"}))
_ROOT = Kind(
    "hudson.model.Hudson",
    {
        "assignedLabels": lambda of: [View(LABEL_NAME, BUILT_IN)],
        "mode": lambda of: "NORMAL",
        "nodeDescription": lambda of: of.world.nodes.built_in.description,
        "nodeName": lambda of: "",
        "numExecutors": lambda of: 0,
        "description": lambda of: None,
        "jobs": lambda of: [job(of.world, of.root, j) for j in of.world.jobs.children("")],
        "overallLoad": lambda of: {},
        "primaryView": lambda of: View(_VIEW, of),
        "quietDownReason": lambda of: None,
        "quietingDown": lambda of: of.world.quieting,
        "slaveAgentPort": lambda of: of.world.tcp_port,
        "unlabeledLoad": lambda of: {"_class": "jenkins.model.UnlabeledLoadStatistics"},
        "url": lambda of: of.root,
        "useCrumbs": lambda of: True,
        "useSecurity": lambda of: True,
        "views": lambda of: [View(_VIEW, of)],
    },
)


@routes.get("/api/json")
async def root_api(request: web.Request) -> web.Response:
    return http.api_json(request, View(_ROOT, Of(http.world(request), http.root(request), None)))


@routes.get("/login")
async def login(request: web.Request) -> web.Response:
    return http.page(request, 200, "Sign in", "<h1>Sign in to Jenkins</h1>")


@routes.get("/whoAmI/api/json")
async def who_am_i(request: web.Request) -> web.Response:
    return http.raw_json(
        request,
        {
            "_class": "hudson.security.WhoAmI",
            "anonymous": False,
            "authenticated": True,
            "authorities": ["authenticated"],
            "name": http.user(request),
        },
    )


@routes.get("/me/api/json")
async def me(request: web.Request) -> web.Response:
    name = http.user(request)
    return http.raw_json(
        request,
        {
            "_class": "hudson.model.User",
            "absoluteUrl": f"{http.root(request)}user/{name}",
            "description": None,
            "fullName": name,
            "id": name,
            "property": [],
        },
    )


@routes.get("/crumbIssuer/api/json")
async def crumb_issuer(request: web.Request) -> web.Response:
    value, cookie = http.crumb(request)
    body = {
        "_class": "hudson.security.csrf.DefaultCrumbIssuer",
        "crumb": value,
        "crumbRequestField": http.CRUMB_FIELD,
    }
    response = http.raw_json(request, body)
    response.headers["Set-Cookie"] = cookie
    return response


@routes.post("/quietDown")
async def quiet_down(request: web.Request) -> web.Response:
    http.world(request).quiet(True)
    return http.redirect(request, "")


@routes.post("/cancelQuietDown")
async def cancel_quiet_down(request: web.Request) -> web.Response:
    http.world(request).quiet(False)
    return http.redirect(request, "")


@routes.get("/tcpSlaveAgentListener/")
async def tcp_listener(request: web.Request) -> web.Response:
    port = str(http.world(request).tcp_port)
    headers = {
        "X-Hudson-JNLP-Port": port,
        "X-Jenkins-JNLP-Port": port,
        "X-Instance-Identity": http.IDENTITY,
        "X-Jenkins-Agent-Protocols": "JNLP4-connect, Ping",
        "X-Remoting-Minimum-Version": "4.13",
    }
    return http.plain("\n\n  Jenkins\n", headers)


@routes.get("/jnlpJars/{name:agent.jar|slave.jar|remoting.jar}")
async def jar(request: web.Request) -> web.Response:  # noqa: ARG001
    return web.Response(body=agent_jar(), headers={"Content-Type": "application/java-archive"})


@routes.get("/script")
async def script_page(request: web.Request) -> web.Response:
    return http.page(request, 200, "Script Console", "")


@routes.post("/scriptText")
async def script_text(request: web.Request) -> web.Response:
    world, user = http.world(request), http.user(request)
    if user not in world.administrators:
        return http.oops(request, 403, f"{user} is missing the Overall/Administer permission")
    form = await request.post()
    return http.plain(script_console.run(world, str(form.get("script", ""))))


# --- credentials ---

Entry = tuple[str, str, str]  # id, class, XML

_STORE = "/credentials/store/system/domain/_"
_TYPES = {
    "UsernamePasswordCredentialsImpl": "Username with password",
    "BasicSSHUserPrivateKey": "SSH Username with private key",
    "StringCredentialsImpl": "Secret text",
}


@routes.post(_STORE + "/createCredentials")
async def create_credentials(request: web.Request) -> web.Response:
    world = http.world(request)
    body = await request.text()
    try:
        root = ET.fromstring(body)
    except ET.ParseError as error:
        return http.oops(request, 500, str(error))
    name = root.findtext("id") or ""
    if name in world.credentials:
        return http.empty(409)
    world.credentials[name] = (root.tag.rsplit(".", 1)[-1], body)
    return http.empty(200)


_ACTION = "com.cloudbees.plugins.credentials.CredentialsStoreAction"
_SHOWN: dict[str, Callable[[Entry], object]] = {
    "description": lambda entry: ET.fromstring(entry[2]).findtext("description") or "",
    "id": lambda entry: entry[0],
    "typeName": lambda entry: _TYPES.get(entry[1], entry[1]),
}
_LISTED = Kind(None, _SHOWN, frozenset(_SHOWN))
_DOMAIN = Kind(
    f"{_ACTION}$DomainWrapper",
    {"credentials": lambda world: [View(_LISTED, (name, *kept)) for name, kept in world.credentials.items()]},
    frozenset({"credentials"}),
)
_ONE = Kind(f"{_ACTION}$CredentialsWrapper", _SHOWN, frozenset(_SHOWN))


@routes.get(_STORE + "/api/json")
async def list_credentials(request: web.Request) -> web.Response:
    return http.api_json(request, View(_DOMAIN, http.world(request)))


@routes.get(_STORE + "/credential/{id}/api/json")
async def one_credential(request: web.Request) -> web.Response:
    name = request.match_info["id"]
    found = http.world(request).credentials.get(name)
    if found is None:
        return http.not_found(request)
    return http.api_json(request, View(_ONE, (name, *found)))


@routes.get(_STORE + "/credential/{id}/config.xml")
async def credential_config(request: web.Request) -> web.Response:
    found = http.world(request).credentials.get(request.match_info["id"])
    if found is None:
        return http.not_found(request)
    root = ET.fromstring(found[1])
    for secret in ("password", "privateKey", "secret", "passphrase"):
        for element in root.iter(secret):
            element.text = None
            ET.SubElement(element, "secret-redacted")
    return web.Response(body=ET.tostring(root), headers={"Content-Type": "application/xml"})


@routes.post(_STORE + "/credential/{id}/doDelete")
async def delete_credential(request: web.Request) -> web.Response:
    if http.world(request).credentials.pop(request.match_info["id"], None) is None:
        return http.not_found(request)
    return http.redirect(request, _STORE.strip("/") + "/")
