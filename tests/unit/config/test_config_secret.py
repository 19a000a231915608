from pathlib import Path

import pytest
import yaml

from provisioner.config import SecretRef, examine_bytes
from provisioner.model.errors import ConfigError
from tests.unit.config.config_samples import changed, told_of

SECRET = "hunter2-s3cr3t"


@pytest.mark.parametrize(
    "token",
    [
        SECRET,
        [SECRET],
        {SECRET: None},
        {"value": SECRET},
        {"env": f"{SECRET}!"},
        {"env": SECRET},
        {"env": [SECRET]},
        {"env": "A", "file": SECRET},
        {"file": {"x": SECRET}},
        {"file": f"{SECRET}\0"},
        {"env": None, "value": SECRET},
        {},
        5,
        {"env": ""},
    ],
)
def test_a_secret_in_the_file_is_refused_and_never_repeated(token: object) -> None:
    findings = examine_bytes(yaml.safe_dump(changed(("controllers.0.token", token))).encode(), "p.yaml").findings
    (finding,) = findings
    assert finding.path == "controllers[0].token"
    assert "{env: VARIABLE}" in finding.text
    assert SECRET not in str(finding)


def test_a_literal_is_told_to_be_one() -> None:
    (line,) = told_of(yaml.safe_dump(changed(("controllers.0.token", SECRET)), sort_keys=False))
    assert line == (
        "p.yaml:6: controllers[0].token: must name where the secret is, a secret itself is refused here; "
        "write {env: VARIABLE} or {file: PATH}"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"id: test\ncontrollers: [{{token: {SECRET}: {SECRET}}}\n",
        f"id: test\ntoken: '{SECRET}\n",
        f"id: test\ntoken: %{SECRET}\n",
        f"controllers:\n  - url: http://user:{SECRET}@host/\n",
        f"providers:\n  - endpoint: ssh://user:{SECRET}@host\n    name: a\n    backend: docker\n    max_agents: 1\n",
        f"templates:\n  - env: {{A: [{SECRET}], B: {{x: {SECRET}}}}}\n",
        f"registries:\n  - {{host: r, username: u, password: {SECRET}}}\n",
    ],
)
def test_no_error_shows_what_may_be_a_secret(text: str) -> None:
    told = told_of(text)
    assert told
    assert SECRET not in "\n".join(told)


def test_a_secret_is_read_at_each_use_without_one_newline(tmp_path: Path) -> None:
    file = tmp_path / "token"
    ref = SecretRef(file=str(file))
    for content, secret in ((b"one\n", "one"), (b"two\n\n", "two\n"), (b"three\r\n", "three"), (b" four ", " four ")):
        file.write_bytes(content)
        assert ref.read() == secret
    assert SecretRef(env="TOKEN").read({"TOKEN": "five\n"}) == "five"


def test_a_secret_that_is_not_there_is_named_by_its_place(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(ConfigError, match=f"file {missing}, which should hold a secret, cannot be read: No such file"):
        SecretRef(file=str(missing)).read()
    with pytest.raises(ConfigError, match="environment variable TOKEN, which should hold a secret, is not set"):
        SecretRef(env="TOKEN").read({})
    with pytest.raises(ConfigError, match="environment variable TOKEN, which should hold a secret, is empty"):
        SecretRef(env="TOKEN").read({"TOKEN": "\n"})


def test_a_secret_that_is_no_text_is_not_shown_in_the_error(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"hunter2\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text") as caught:
        SecretRef(file=str(file)).read()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "hunter2" not in str(caught.value)
