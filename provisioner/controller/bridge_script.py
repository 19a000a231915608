"""The bridge's script: the parts of `bridge/` in one text, with its one constant filled in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from provisioner.controller.port import BridgeMode
from provisioner.controller.script_console import packed
from provisioner.model.errors import ControllerError

_PLACE = "String PROVISIONER_BRIDGE_PARAMETERS = 'e30='"
_MARKER = "PROVISIONER-BRIDGE "
#: In the order in which they are put together: the imports first, what installs it last.
_PARTS = (
    "preamble", "pipeline", "consoles", "agents", "items", "events", "failures", "dialling", "verbs", "snapshot",
    "holders", "state", "dispatching", "listeners", "http", "installation",
)  # fmt: skip


def content() -> str:
    """A fingerprint of the script's text: twelve hexadecimal digits, others for every change of it."""
    return hashlib.sha256(_source().encode()).hexdigest()[:12]


def render_script(*, replace: bool = False, owner: str = "", holder: str = "") -> str:
    """The script that puts the bridge in through the script console, for administrators.

    Args:
        replace: put it in although the same version is there, with the same text or in use.
        owner: our owner id.
        holder: which provisioner this is.
    """
    parameters: dict[str, object] = {"mode": BridgeMode.SCRIPT.value, "replace": replace, "content": content()}
    return _render({**parameters, "owner": owner, "holder": holder})


def render_init(*, user: str, owners: Sequence[str]) -> str:
    """The file for `init.groovy.d`: the bridge serves that one account, for those owner ids."""
    parameters: dict[str, object] = {"mode": BridgeMode.INIT.value, "user": user, "owners": list(owners)}
    return _render({**parameters, "replace": True, "content": content()})


def render_removal() -> str:
    """The script that takes every installation of the bridge out again."""
    return _render({"verb": "remove"})


def read_marker(answer: str) -> dict[str, Any]:
    """What the script says of itself; `/scriptText` answers 200 even for a script that did not compile.

    Raises:
        ControllerError: the script did not get to its end.
    """
    for line in answer.splitlines():
        if line.startswith(_MARKER):
            try:
                said = json.loads(line.removeprefix(_MARKER))
            except ValueError:
                break
            if isinstance(said, dict):
                return said
    first = next((line.strip() for line in answer.splitlines() if line.strip()), "nothing")
    raise ControllerError(f"the bridge's script failed in the controller, which answered: {first[:500]}", code=200)


def _render(parameters: dict[str, object]) -> str:
    source = _source()
    if source.count(_PLACE) != 1:
        raise ControllerError("the bridge's script has lost the place for its parameters; reinstall the package")
    return source.replace(_PLACE, f"String PROVISIONER_BRIDGE_PARAMETERS = '{packed(parameters)}'")


@cache
def _source() -> str:
    """One script: Jenkins takes it as such, and a class of one part may use those of any other."""
    folder = resources.files("provisioner.controller").joinpath("bridge")
    return "\n".join(folder.joinpath(f"{part}.groovy").read_text(encoding="utf-8") for part in _PARTS)
