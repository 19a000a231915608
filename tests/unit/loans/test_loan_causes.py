"""Two of us at the cause of one node by plain REST, where bringing it back is no more than a toggle."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest

from provisioner.controller.rest import Answer, Rest
from provisioner.controller.script_console import MARK as SAID
from provisioner.loans.causes import AnyCauses, PlainCauses
from provisioner.loans.marks import LoanMark, Word
from provisioner.model.errors import ControllerError

MARK = str(LoanMark(name="loan-n-abcdefghijklm", owner="o", to="b", until_s=9, word=Word.STOPPED, labels=(), root="/r"))


@dataclass
class OneNode:
    """A controller's node, as far as its cause is concerned."""

    cause: str | None = MARK
    before_toggle: Callable[[], None] = lambda: None
    name: str = "main"

    def get(self, path: str, *, op: str) -> Any:
        return json.loads(self.call("GET", path, op=op).content)

    def call(self, method: str, path: str, *, op: str, form: Mapping[str, str] | None = None) -> Answer:
        body = b""
        message = (form or {}).get("offlineMessage", "")
        match method, path.partition("?")[0].rpartition("/")[2]:
            case "GET", "json":
                body = json.dumps(
                    {"temporarilyOffline": self.cause is not None, "offlineCauseReason": self.cause or ""}
                ).encode()
            case "GET", "config.xml":
                cause = f"<temporaryOfflineCause><m>{self.cause}</m></temporaryOfflineCause>" if self.cause else ""
                body = f"<slave>{cause.replace('&', '&amp;')}</slave>".encode()
            case "POST", "toggleOffline":
                then, self.before_toggle = self.before_toggle, lambda: None
                then()
                self.cause = message if self.cause is None else None
            case "POST", "changeOfflineCause":
                self.cause = message
            case _:
                raise AssertionError(f"{method} {path}")
        return Answer(status=200, headers={}, content=body)


def causes(node: OneNode, waits: Callable[[float], None] = lambda _s: None) -> PlainCauses:
    return PlainCauses(cast("Rest", node), sleep=waits)


def test_a_node_that_two_bring_back_at_once_is_never_offline_without_its_mark() -> None:
    node, said = OneNode(), []
    node.before_toggle = lambda: said.append(causes(node).set("n", MARK, None))
    said.append(causes(node).set("n", MARK, None))
    # offline once more, but as it was: the next look releases it again
    assert (node.cause, said) == (MARK, [True, False])
    assert causes(node).set("n", MARK, None)
    assert node.cause is None


def test_who_brought_a_node_back_says_so_only_when_another_has_had_time_to_undo_it() -> None:
    node = OneNode()

    def undone(_s: float) -> None:
        node.cause = MARK  # by the other's toggle

    assert causes(node, undone).set("n", MARK, None) is False


class Console(OneNode):
    """The same under the controller's lock, where the guard may have a seat on it."""

    timeout_s = 30.0
    seated = True

    def script(self, groovy: str, *, timeout_s: float) -> str:
        found = re.search(r"String\('([^']+)'\.decodeBase64", groovy)
        assert found is not None
        ask = json.loads(base64.b64decode(found[1]))
        assert "guard.seats" in groovy
        if self.seated and ask["from"] is None:
            return f"{SAID}{json.dumps({'code': 'reserved', 'agent': 'maven-1'})}"
        self.cause = ask["to"]
        return f"{SAID}{json.dumps({'code': 'done'})}"


def test_a_node_that_is_reserved_for_a_build_is_not_lent_away_from_it() -> None:
    node = Console(cause=None)
    with pytest.raises(ControllerError, match="n is reserved for the build of agent maven-1"):
        AnyCauses(cast("Rest", node)).set("n", None, MARK)
    assert node.cause is None
    node.seated = False
    assert AnyCauses(cast("Rest", node)).set("n", None, MARK)
    assert node.cause == MARK
