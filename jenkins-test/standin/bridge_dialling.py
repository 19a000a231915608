"""What the bridge does about agents that are dialled: their credentials entries, their launchers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from standin import dialling
from standin.bridge import Bridge, mark
from standin.nodes import SSH_LAUNCHER, Dial, Node

_CLASS = "com.cloudbees.jenkins.plugins.sshcredentials.impl.BasicSSHUserPrivateKey"


class Refusal(Exception):  # noqa: N818
    """An op that cannot be done."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def id_of(owner: str, name: str) -> str:
    return f"jenkins-provisioner.{owner}.{name}"


def _description(text: str) -> str:
    return ET.fromstring(text).findtext("description") or ""


def _has(bridge: Bridge, owner: str, name: str) -> bool:
    found = bridge.world.credentials.get(id_of(owner, name))
    if found is not None and _description(found[1]) != mark(owner, name):
        raise Refusal(409, f"the credentials entry {id_of(owner, name)} does not carry the mark of owner {owner}")
    return found is not None


def names(bridge: Bridge, owner: str) -> list[str]:
    start = mark(owner, "")
    told = [_description(text) for _, text in bridge.world.credentials.values()]
    return [d.removeprefix(start) for d in told if d.startswith(start) and _has(bridge, owner, d.removeprefix(start))]


def forget(bridge: Bridge, owner: str, name: str) -> bool:
    if not _has(bridge, owner, name):
        return False
    del bridge.world.credentials[id_of(owner, name)]
    return True


def dial(bridge: Bridge, node: Node, owner: str, op: Mapping[str, Any]) -> None:
    _has(bridge, owner, node.name)
    bridge.world.credentials[id_of(owner, node.name)] = (dialling.ENTRY, _entry(owner, node.name, op))
    wanted = Dial(
        host=op["host"],
        port=op["port"],
        entry=id_of(owner, node.name),
        host_key=op["host_key"],
        java=op["java"],
        options=op["java_options"],
        prefix=op["prefix"],
        suffix=op["suffix"],
        timeout_s=op["timeout_s"],
        retries=op["retries"],
    )
    if node.dial != wanted:
        node.launcher, node.dial = SSH_LAUNCHER, wanted
    dialling.start(bridge.world, node)


def _entry(owner: str, name: str, op: Mapping[str, Any]) -> str:
    entry = ET.Element(_CLASS)
    for tag, text in (
        ("scope", "SYSTEM"),
        ("id", id_of(owner, name)),
        ("description", mark(owner, name)),
        ("username", op["user"]),
    ):
        ET.SubElement(entry, tag).text = text
    source = ET.SubElement(entry, "privateKeySource", {"class": f"{_CLASS}$DirectEntryPrivateKeySource"})
    ET.SubElement(source, "privateKey").text = op["private_key"]
    return ET.tostring(entry, encoding="unicode")
