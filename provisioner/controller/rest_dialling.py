"""Agents that the controller dials, over plain REST: credentials entries, and nodes with an SSH launcher."""

from __future__ import annotations

from urllib.parse import quote
from xml.etree import ElementTree as ET

from provisioner.controller.port import Dial, NodeOrder, credentials_id
from provisioner.controller.rest import Rest
from provisioner.controller.rest_nodes import RestNodes
from provisioner.controller.rest_views import mark, marked_for
from provisioner.controller.threads import DaemonPool
from provisioner.model.errors import ControllerError

_STORE = "credentials/store/system/domain/_/"
_ENTRY = "com.cloudbees.jenkins.plugins.sshcredentials.impl.BasicSSHUserPrivateKey"
_LAUNCHER = "hudson.plugins.sshslaves.SSHLauncher"
_PINNED = "hudson.plugins.sshslaves.verifiers.ManuallyProvidedKeyVerificationStrategy"


class RestDialling:
    """The credentials entries of one owner on one controller, and the launchers that use them."""

    def __init__(self, http: Rest, pool: DaemonPool, nodes: RestNodes, owner: str) -> None:
        self._http = http
        self._pool = pool
        self._nodes = nodes
        self._owner = owner

    async def dial(self, order: NodeOrder, dial: Dial) -> None:
        """Make the entry, then make the node anew with a launcher that uses it.

        A node is made anew, not changed: that needs no permission but those to create and delete agents. One that
        has such a launcher already is left as it is, since a build may run there.

        Raises:
            ControllerError: code 412 where the plugin is missing, 403 where a permission is.
        """
        path = f"computer/{quote(order.name)}/api/json?tree=description,launchSupported"
        try:
            seen = await self._pool.run(self._http.get, path, op="node")
        except ControllerError as error:
            if error.code != 404:
                raise
            seen = None  # an earlier call came no further than its deletion
        if seen is not None and not marked_for(seen.get("description") or "", self._owner, order.name):
            raise ControllerError(
                f"controller {self._http.name}: a node named {order.name} exists and is not ours; it is left alone",
                code=409,
            )
        if seen is not None and seen.get("launchSupported"):
            return  # only a launcher that dials has something to launch
        await self._put(order.name, dial)
        if seen is not None:
            await self._nodes.remove(order.name)
        launcher = _launcher(credentials_id(self._owner, order.name), dial)
        await self._nodes.create(order, launcher, description=(seen or {}).get("description"))

    async def _put(self, name: str, dial: Dial) -> None:
        entry = ET.Element(_ENTRY)
        for tag, text in (
            ("scope", "SYSTEM"),  # for agents alone: no job can bind it
            ("id", credentials_id(self._owner, name)),
            ("description", mark(self._owner, name)),
            ("username", dial.user),
            ("passphrase", ""),
        ):
            ET.SubElement(entry, tag).text = text
        source = ET.SubElement(entry, "privateKeySource", {"class": f"{_ENTRY}$DirectEntryPrivateKeySource"})
        ET.SubElement(source, "privateKey").text = dial.private_key
        for attempt in (1, 2):
            if await self._created(entry):
                return
            if attempt == 1:  # an earlier call's, or left of something else: this one's key is the right one
                await self.remove_credentials(name)
        raise ControllerError(
            f"controller {self._http.name}: the credentials entry of {name} is there again as soon as it is deleted",
            code=409,
            retryable=True,
        )

    async def _created(self, entry: ET.Element) -> bool:
        """Whether it was made now; False: there is one of that id."""
        try:
            answer = await self._pool.run(
                self._http.call,
                "POST",
                f"{_STORE}createCredentials",
                op="credentials",
                xml_body=ET.tostring(entry),
                expect=(200, 302, 409),
            )
        except ControllerError as error:
            if error.code != 404:
                raise
            raise ControllerError(
                f"controller {self._http.name} has no store for credentials, or the user {self._http.user} may not see "
                "it; install the plugins ssh-slaves and ssh-credentials and grant Credentials/Create, Credentials/"
                "Delete and Credentials/View, or use another transport",
                code=412,
            ) from error
        return answer.status != 409

    async def credentials(self) -> tuple[str, ...]:
        """Names of our agents that have an entry; none where the account may not see them or there is no plugin."""
        path = f"{_STORE}api/json?tree=credentials[id,description]"
        try:
            answer = await self._pool.run(self._http.get, path, op="credentials")
        except ControllerError as error:
            if error.code in (403, 404):
                return ()
            raise
        start = mark(self._owner, "")
        found = []
        for entry in answer.get("credentials") or ():
            description = entry.get("description") or ""
            name = description.removeprefix(start)
            if description.startswith(start) and entry.get("id") == credentials_id(self._owner, name):
                found.append(name)
        return tuple(found)

    async def remove_credentials(self, name: str) -> None:
        """Delete the entry of an agent, if it is ours; gone already is done.

        Raises:
            ControllerError: 409 where the entry is a stranger's.
        """
        place = f"{_STORE}credential/{quote(credentials_id(self._owner, name))}/"
        path = f"{place}api/json?tree=description"
        try:
            seen = await self._pool.run(self._http.get, path, op="credentials")
        except ControllerError as error:
            if error.code == 404:
                return
            raise
        if seen.get("description") != mark(self._owner, name):
            raise ControllerError(
                f"controller {self._http.name}: the credentials entry {credentials_id(self._owner, name)} is not ours; "
                "it is left alone",
                code=409,
            )
        await self._pool.run(self._http.call, "POST", f"{place}doDelete", op="credentials", expect=(200, 302, 404))

    async def launch_tail(self, name: str, lines: int) -> tuple[str, ...]:
        """The last lines of a node's launch log; empty where it is gone or may not be read."""
        path = f"computer/{quote(name)}/logText/progressiveText?start=0"
        try:
            answer = await self._pool.run(self._http.call, "GET", path, op="launch_log")
        except ControllerError as error:
            if error.code in (403, 404):
                return ()
            raise
        return tuple(answer.text.splitlines()[-lines:])


def _launcher(entry: str, dial: Dial) -> dict[str, object]:
    """What the form of a new node says of its launcher."""
    return {
        "stapler-class": _LAUNCHER,
        "$class": _LAUNCHER,
        "host": dial.host,
        "port": dial.port,
        "credentialsId": entry,
        "javaPath": dial.java,
        "jvmOptions": " ".join(dial.java_options),
        "prefixStartSlaveCmd": dial.prefix,
        "suffixStartSlaveCmd": dial.suffix,
        "launchTimeoutSeconds": max(1, round(dial.timeout_s)),
        "maxNumRetries": dial.retries,
        "retryWaitTime": 1,
        "sshHostKeyVerificationStrategy": {"stapler-class": _PINNED, "$class": _PINNED, "key": dial.host_key},
    }
