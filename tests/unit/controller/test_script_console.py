"""What a script is told, and what of an answer is its own."""

from __future__ import annotations

import base64
import json

import pytest

from provisioner.controller.script_console import MARK, packed, said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (f"{MARK}ok\n", "ok"),
        (f"printed by the script\n{MARK}{{}}", "{}"),
        (f"{MARK}first\n{MARK}last\n", "last"),
        (f"{MARK}\n", ""),
        ("org.codehaus.groovy.control.MultipleCompilationErrorsException: startup failed\n\tat x\n", None),
        ("", None),
    ],
)
def test_only_what_stands_behind_the_last_mark_is_the_scripts(answer: str, words: str | None) -> None:
    assert said(answer) == words


def test_no_text_from_outside_can_become_code() -> None:
    told = {"name": "n' + ''.execute() + '${1}\n", "at": 3}
    text = packed(told)
    assert not set(text) & set("'\"$\\\n")
    assert json.loads(base64.b64decode(text)) == told
