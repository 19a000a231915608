"""What goes into a script of Jenkins' script console, and how its own words are told from the rest of the answer.

The console answers 200 whatever becomes of a script, so what a script says stands behind a mark; an answer without
one is a compiler's or a stack trace.
"""

from __future__ import annotations

import base64
import json

#: Printed before what a script says; the last one in an answer counts.
MARK = "jenkins-provisioner-said:"


def packed(told: object) -> str:
    """Base64 of JSON, as which everything from outside travels: no text of it can become code."""
    return base64.b64encode(json.dumps(told).encode()).decode()


def said(answer: str) -> str | None:
    """What a script said behind its mark; None: it did not get there."""
    _, mark, words = answer.rpartition(MARK)
    return words.strip() if mark else None
