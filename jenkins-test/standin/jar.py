"""The stand-in's agent.jar: a Python zipapp, the same bytes at every start."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "agent"
_STAMP = (2020, 1, 1, 0, 0, 0)


@cache
def agent_jar() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as jar:
        for source in sorted(_FOLDER.glob("*.py")):
            jar.writestr(zipfile.ZipInfo(source.name, _STAMP), source.read_bytes())
    return made.getvalue()
