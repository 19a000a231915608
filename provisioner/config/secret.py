"""Where a secret is kept; the configuration never holds one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from provisioner.config.part import Part
from provisioner.model.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RIGHT = "write {env: VARIABLE} or {file: PATH}"


class SecretRef(Part):
    """Names the environment variable or the file that holds the secret."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["env"]}, {"required": ["file"]}]},
    )

    env: str | None = Field(None, description="environment variable of the sidecar that holds the secret")
    file: str | None = Field(None, description="file that holds the secret; one newline at its end is not part of it")

    @model_validator(mode="before")
    @classmethod
    def _shape(cls, value: object) -> object:
        # One check for the whole mapping: an error at an inner key would repeat that key, and
        # `token: {abc}` is a mapping whose key is the secret.
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"must name where the secret is, a secret itself is refused here; {_RIGHT}")  # noqa: TRY004
        given = {key: inner for key, inner in value.items() if inner is not None}
        if len(given) != 1 or not given.keys() <= {"env", "file"}:
            raise ValueError(f"must name one place where the secret is; {_RIGHT}")
        (where,) = given.values()
        if not isinstance(where, str) or not where or "\0" in where:
            raise ValueError(f"must name the place of the secret as text; {_RIGHT}")
        if "env" in given and not _VARIABLE.fullmatch(where):
            raise ValueError("must name an environment variable: letters, digits and underscores; " + _RIGHT)
        return given

    def __str__(self) -> str:
        return f"environment variable {self.env}" if self.env is not None else f"file {self.file}"

    def read(self, env: Mapping[str, str] = os.environ) -> str:
        """The secret, read anew at each call, without one newline at its end.

        Raises:
            ConfigError: there is none; the message names the place, never its content.
        """
        text = self._from_file() if self.file is not None else env.get(self.env or "")
        if text is None:
            raise ConfigError(f"{self}, which should hold a secret, is not set; set it for the provisioner")
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise ConfigError(f"{self}, which should hold a secret, is empty")
        return text

    def _from_file(self) -> str:
        try:
            return Path(self.file or "").read_bytes().decode()
        except OSError as error:
            raise ConfigError(
                f"{self}, which should hold a secret, cannot be read: {error.strerror or type(error).__name__}"
            ) from None
        except UnicodeDecodeError:
            # not chained: that error carries the bytes
            raise ConfigError(f"{self}, which should hold a secret, is not UTF-8 text") from None
