"""The kinds of single values, each with its check, its words and its JSON Schema."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from provisioner.config import durations, sizes
from provisioner.config.durations import parse_duration
from provisioner.config.sizes import parse_size

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_TEMPLATE = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-/:@]*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_RUN_AS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
#: What ends an atom of a Jenkins label expression, or has to be quoted in one.
_NOT_IN_LABEL = re.compile(r"""[\s\x00-\x1f\x7f&|!()<>"']""")
_MOST_HELD = 10_000
_PLACE_HOLDER = re.compile(r"\{([a-z]+)\}")


def _shown(value: str) -> str:
    return f'"{value}"' if len(value) <= 60 and value.isprintable() else "this"


def owner_id(value: str) -> str:
    """The value, which may be an owner id.

    Raises:
        ValueError: it may not.
    """
    if not _ID.fullmatch(value):
        raise ValueError(f"{_shown(value)} cannot be an id; write up to 40 of a-z, 0-9 and -, not starting with -")
    return value


def _template_name(value: str) -> str:
    if not _TEMPLATE.fullmatch(value):
        raise ValueError(
            f"{_shown(value)} cannot begin the names of nodes; write up to 40 of a-z, 0-9 and -, with - only inside"
        )
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{_shown(value)} cannot be a name; write up to 40 of letters, digits, dot, _ and -, "
            "starting with a letter or digit"
        )
    return value


def _text(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("must not be empty; write some text or leave the key out")
    return value


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise ValueError(f"{_shown(value)} cannot be a variable's name; write letters, digits and _, no digit first")
    return value


def _variable_value(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a zero character, which no environment variable can; leave it out")
    return value


def _hold_on_failure(value: object) -> object:
    right = "write 0, how many agents such as 2, or for how long each such as 30m"
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= _MOST_HELD:
            raise ValueError(f"must be from 0 to {_MOST_HELD}; {right}")
        return value
    if isinstance(value, str) and value.strip()[-1:] in tuple("smhd"):
        try:
            if parse_duration(value) > 0:
                return value.strip()
        except ValueError:
            pass
    raise ValueError(f"is neither a number of agents nor a duration with its unit; {right}")


def _http_url(value: str) -> str:
    right = "write one such as http://jenkins.example.org:8080/"
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  (read for its check)
    except ValueError:
        raise ValueError(f"is not a URL; {right}") from None
    if "@" in parts.netloc:
        # never shown: what stands before the @ may be a password
        raise ValueError(f"must not hold a user or password; {right}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"is not an http or https URL; {right}")
    if parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", value):
        raise ValueError(f"must end with its path, without query, fragment or blank; {right}")
    return value if value.endswith("/") else f"{value}/"


def _endpoint(value: str) -> str:
    # What is wrong with it otherwise depends on the backend. A password is refused here, before anything shows it.
    if ":" in value.partition("://")[2].rpartition("@")[0]:
        raise ValueError("must not hold a password; write ssh://user@host and use a key")
    return _text(value)


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value or ".." in PurePosixPath(value).parts:
        raise ValueError(f"{_shown(value)} is not an absolute path; write one that starts with / and has no ..")
    return value


def _image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise ValueError(f"{_shown(value)} is not an image's name; write one such as maven:3.9-eclipse-temurin-17")
    return value


def _registry_host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError("is not a registry's host; write host or host:port, without https:// and without a path")
    return value


def _user_name(value: str) -> str:
    if not _USER.fullmatch(value):
        raise ValueError(
            f"{_shown(value)} is not the name of a user; write letters, digits, dots, underscores and dashes"
        )
    return value


def _run_as(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # `run_as: 1000` reads as a number
    if isinstance(value, str) and not _RUN_AS.fullmatch(value):
        raise ValueError(f'{_shown(value)} is not a user; write user or user:group, such as "1000:1000"')
    return value


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{_shown(value)} is not an IP address; write one such as 10.0.0.2") from None


def _host_target(value: str) -> str:
    return value if value == "host-gateway" else _address(value)


def _host_name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise ValueError(f"{_shown(value)} is not a host's name; write one such as db.example.org")
    return value


def _label(value: str) -> str:
    if not value or _NOT_IN_LABEL.search(value):
        raise ValueError(f"{_shown(value)} cannot be a label; write one word without blanks, quotes and & | ! ( ) < >")
    if re.search(r"[{}]", _PLACE_HOLDER.sub("", value)):
        raise ValueError(f"{_shown(value)} holds a stray brace; write a place holder such as image={{image}}")
    return value


def place_holders(label: str) -> tuple[str, ...]:
    """The names in braces of a label such as `image={image}`."""
    return tuple(_PLACE_HOLDER.findall(label))


def _job(value: str) -> str:
    if not value.strip() or value.startswith("/") or value.endswith("/"):
        raise ValueError(f"{_shown(value)} matches no job; write a full name such as team-a/** without / at its ends")
    return value


def split_listen(value: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare and bare == host) or not re.fullmatch("[0-9]{1,5}", port):
        raise ValueError(f"{_shown(value)} is not an address to listen at; write host:port such as 127.0.0.1:8085")
    if int(port) > 65535:
        raise ValueError(f"{port} is not a port; write 1 to 65535, or 0 for a free one")
    return bare, int(port)


def split_host_port(value: str) -> tuple[str, int]:
    """Host and port of `host` or `host:port`, port 0 if there is none; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is not of that form.
    """
    if ":" not in value or value.endswith("]"):
        value = f"{value}:0"
    try:
        host, port = split_listen(value)
    except ValueError:
        host, port = "", 0
    if not (_HOST_NAME.fullmatch(host) or ":" in host):
        raise ValueError(f"{_shown(value)} is not an address; write host or host:port such as ci.example.org:2222")
    return host, port


def _host_port(value: str) -> str:
    split_host_port(value)
    return value


def _listen(value: str) -> str:
    split_listen(value)
    return value


def _pattern(pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern.pattern}$"})


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": durations.PATTERN}]}),
]
HoldOnFailure = Annotated[
    int | str,
    BeforeValidator(_hold_on_failure),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _MOST_HELD},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?[smhd]$"},
            ]
        }
    ),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": sizes.PATTERN}]}),
]
Count = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
PositiveCount = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
OwnerId = Annotated[str, AfterValidator(owner_id), _pattern(_ID)]
TemplateName = Annotated[str, AfterValidator(_template_name), _pattern(_TEMPLATE)]
Name = Annotated[str, AfterValidator(_name), _pattern(_NAME)]
Text = Annotated[str, AfterValidator(_text)]
Variable = Annotated[str, AfterValidator(_variable), _pattern(_VARIABLE)]
VariableValue = Annotated[str, AfterValidator(_variable_value)]
HttpUrl = Annotated[str, AfterValidator(_http_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
AbsolutePath = Annotated[str, AfterValidator(_absolute), WithJsonSchema({"type": "string", "pattern": "^/"})]
ImageName = Annotated[str, AfterValidator(_image), _pattern(_IMAGE)]
RegistryHost = Annotated[str, AfterValidator(_registry_host), _pattern(_HOST)]
UserName = Annotated[str, AfterValidator(_user_name), _pattern(_USER)]
RunAs = Annotated[
    str, BeforeValidator(_run_as), WithJsonSchema({"type": ["string", "integer"], "pattern": f"^{_RUN_AS.pattern}$"})
]
Address = Annotated[str, AfterValidator(_address)]
HostTarget = Annotated[str, AfterValidator(_host_target)]
HostName = Annotated[str, AfterValidator(_host_name)]
Label = Annotated[str, AfterValidator(_label)]
JobPattern = Annotated[str, AfterValidator(_job)]
Listen = Annotated[str, AfterValidator(_listen)]
HostPort = Annotated[str, AfterValidator(_host_port)]
