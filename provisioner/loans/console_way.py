"""A lent machine by way of its own agent: the script console of its node, at the lender.

Scripts of that console may be kept by the controller (an audit trail), so the secret is encrypted for the agent: it
makes a key pair first, whose private half never leaves its memory.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import structlog
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from provisioner.controller.rest import Rest
from provisioner.controller.script_console import MARK, packed, said
from provisioner.loans.machine import Input, MachineError, Output
from provisioner.model.errors import ProvisionerError

log = structlog.get_logger(__name__)

_RUN_S = 60.0  # it fetches agent.jar, and ends processes in its own time

_HEAD = """
def ask = new groovy.json.JsonSlurper().parseText(new String('%s'.decodeBase64(), 'UTF-8'))
def key = 'jenkins-provisioner.loan.' + ask.name + '.' + ask.nonce
def say = { println '%s' + groovy.json.JsonOutput.toJson(it) }
"""

_KEY = """
def maker = java.security.KeyPairGenerator.getInstance('RSA')
maker.initialize(2048)
def pair = maker.generateKeyPair()
System.getProperties().put(key, pair.private)
say([key: pair.public.encoded.encodeBase64().toString()])
"""

_FORGET = """
System.getProperties().remove(key)
say([forgotten: true])
"""

_RUN = """
def input = new ByteArrayOutputStream()
def secretKey = System.getProperties().remove(key)
if (ask.secret) {
    def cipher = javax.crypto.Cipher.getInstance('RSA/ECB/OAEPWithSHA-256AndMGF1Padding')
    cipher.init(javax.crypto.Cipher.DECRYPT_MODE, (java.security.PrivateKey) secretKey)
    try {
        input.write(cipher.doFinal(ask.secret.decodeBase64()))
        input.write(10)
        input.write(new URL(ask.jar).bytes)
    } catch (IOException problem) {
        say([status: 7, text: 'agent.jar cannot be fetched from ' + ask.jar + ' (' + problem + ')'])
        return
    }
}
def builder = new ProcessBuilder('/bin/sh', '-c', ask.script).redirectErrorStream(true)
builder.environment().put('AGENT_JAVA', System.getProperty('java.home') + '/bin/java')
def process = builder.start()
try {
    process.outputStream.withStream { it.write(input.toByteArray()) }
} catch (IOException ignored) {
    // it failed before it had read all; it says why
}
def text = process.inputStream.getText('UTF-8')
say([status: process.waitFor(), text: text])
"""


class ConsoleWay:
    """See `machine.Way`; the account needs Administer at the lender.

    Args:
        http: the lender.
        node: name of the node there.
        name: of the loan.
    """

    java = ""  # the one that runs the lender's own agent

    def __init__(self, http: Rest, *, node: str, name: str) -> None:
        self._http = http
        self._node = node
        self._name = name

    def run(self, script: str, given: Input | None) -> Output:
        """Run it as a child of the lender's agent."""
        # another start of the same loan has another key
        key = {"name": self._name, "nonce": secrets.token_hex(8)}
        ask = {**key, "script": script, "jar": given.jar_url if given else "", "secret": ""}
        try:
            if given is not None:
                ask["secret"] = self._sealed(given.secret, key)
            found = self._ask(_RUN, ask)
        except ProvisionerError:
            if given is not None:
                self._forget(key)
            raise
        return Output(status=int(found["status"]), text=str(found["text"]))

    def _forget(self, key: Mapping[str, str]) -> None:
        """Whether the step that takes the key out was run is not known; gone already is done."""
        try:
            self._ask(_FORGET, key)
        except ProvisionerError as error:
            log.info("loan.key_left", node=self._node, problem=error.message, next="it goes with the agent's process")

    def _sealed(self, secret: str, key: Mapping[str, str]) -> str:
        found = self._ask(_KEY, key)
        public = serialization.load_der_public_key(base64.b64decode(found["key"]))
        if not isinstance(public, rsa.RSAPublicKey):
            raise MachineError(f"the agent of {self._node} made a key that is no RSA key")
        # SHA-1 in the mask is what Java takes for this padding; nothing hangs on its collisions here
        mask = padding.MGF1(algorithm=hashes.SHA1())  # noqa: S303
        oaep = padding.OAEP(mgf=mask, algorithm=hashes.SHA256(), label=None)
        return base64.b64encode(public.encrypt(secret.encode(), oaep)).decode()

    def _ask(self, work: str, ask: Mapping[str, object]) -> dict[str, Any]:
        groovy = _HEAD % (packed(ask), MARK) + work
        path = f"computer/{quote(self._node, safe='')}/scriptText"
        answer = self._http.call(
            "POST", path, op="loan", form={"script": groovy}, expect=(200,), timeout_s=max(_RUN_S, self._http.timeout_s)
        )
        words = said(answer.text)
        if words is None:
            first = next((line for line in answer.text.splitlines() if line.strip()), "it says nothing")
            raise MachineError(f"the script console of node {self._node} failed: {first[:200]}")
        found: dict[str, Any] = json.loads(words)
        return found
