"""The way to an engine: what keeps us from it is told in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.backends.docker.engine import Engine
from provisioner.config import Tls
from provisioner.model.errors import LaunchError, Reason


@pytest.mark.parametrize("missing", ["ca", "cert", "key"])
def test_the_file_of_its_encryption_that_cannot_be_read_is_named(tmp_path: Path, missing: str) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    for name, file in files.items():
        if name != missing:
            file.write_text("")
    tls = Tls(**{name: str(file) for name, file in files.items()})
    engine = Engine(endpoint="tcp://127.0.0.1:1", tls=tls, timeout_s=1)
    with pytest.raises(LaunchError) as told:
        engine.api()
    assert told.value.message == (
        f"the Docker engine at tcp://127.0.0.1:1 cannot be asked: `tls.{missing}` {files[missing]} cannot be read: "
        "No such file or directory"
    )
    assert told.value.reason is Reason.PROVIDER_UNREACHABLE
