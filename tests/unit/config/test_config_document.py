from pathlib import Path

import pytest

from provisioner.config import examine, load
from provisioner.config.document import parse
from provisioner.model.errors import ConfigError
from tests.unit.config.config_samples import told_of

GOOD = """\
id: test
controllers:
  - {name: main, url: "http://h/", user: u, token: {env: TOKEN}}
providers:
  - {name: here, backend: process, max_agents: 1}
templates:
  - {name: a, labels: [a], providers: [here]}
"""


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "the file is empty; write at least id"),
        ("# nothing\n---\n", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
        ("\n- a\n- b\n", 2, "the file must be a mapping; write `key: value` lines"),
        ("just words", 1, "the file must be a mapping"),
        ("id: [a\nb: c\n", 2, "is not YAML: while parsing a flow sequence"),
        ("id: a\n\tb: c\n", 2, "is not YAML: while scanning for the next token, found character '\\t'"),
        ("id: *nobody\n", 1, "is not YAML: found undefined alias 'nobody'"),
        ("id: a\n---\nid: b\n", 2, "expected a single document"),
        ("id: a\nb: \x07\n", 2, "special characters are not allowed; save the file as UTF-8 text"),
        ('id: "\\UFFFFFFFF"\n', 1, "is not YAML"),
        ("[" * 5000, 1, "is nested too deeply; write it flatter"),
        ("id: &a [*a]\n", 1, "an alias stands inside what it names"),
        ("a: &a {b: 1, <<: *a}\n", 1, "an alias stands inside what it names"),
        ("a: {<<: 5}\n", 1, "<< takes a mapping or a list of mappings"),
    ],
)
def test_yaml_that_cannot_be_read_is_one_clear_line(text: str, line: int, words: str) -> None:
    (told,) = told_of(text)
    assert told.startswith(f"p.yaml:{line}: ")
    assert words in told


def test_bytes_that_are_no_text_are_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"id: a\nb: \xff\xfe\n")
    (finding,) = examine(file).findings
    assert str(finding).startswith(f"{file}:2: is not YAML: ")


def test_a_million_values_from_ten_lines_are_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    (told,) = told_of(bomb)
    assert "holds more than 200000 values; use fewer aliases" in told


def test_a_key_that_stands_twice_is_told_beside_other_mistakes() -> None:
    told = told_of(GOOD.replace("id: test\n", "id: test\nid: again\nzzz: 1\n"))
    assert told[0] == "p.yaml:2: id: stands twice, first in line 1; leave one out"
    assert told[1].startswith("p.yaml:3: zzz: is not a key here")
    assert len(told) == 2


def test_a_key_that_stands_twice_in_an_inner_mapping_has_its_whole_path() -> None:
    (told,) = told_of(GOOD.replace("name: a,", "name: a, name: b,"))
    assert told == "p.yaml:7: templates[0].name: stands twice, first in line 7; leave one out"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("id: test", "id: !secret test", "p.yaml:1: id: has a YAML tag"),
        ("id: test", "id: !!python/name:os.system ''", "p.yaml:1: id: has a YAML tag"),
        ("max_agents: 1", f"max_agents: {'9' * 5000}", "p.yaml:5: providers[0].max_agents: is not a usable number"),
        ("max_agents: 1", "max_agents: .inf", "p.yaml:5: providers[0].max_agents: is not a usable number"),
        ("id: test", "id: test\n? [a, b]\n: c", "p.yaml:2: a key must be one word"),
    ],
)
def test_yaml_that_goes_beyond_plain_values_is_told_once(old: str, new: str, words: str) -> None:
    (told,) = told_of(GOOD.replace(old, new))
    assert told.startswith(words)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1000:50", "1000:50"),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("2024-01-01", "2024-01-01"),
        ("'12'", "12"),
        ("90s", "90s"),
        ("=", "="),
    ],
)
def test_values_are_read_as_yaml_1_2_does(text: str, value: object) -> None:
    document = parse(f"a: {text}\n".encode())
    assert document.problems == ()
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert parse(b"{1: a, on: b, null: c, 1.0: d}").value == {"1": "a", "on": "b", "null": "c", "1.0": "d"}


def test_merged_keys_give_way_to_those_written_out_and_keep_their_lines() -> None:
    document = parse(b"a: &a\n  x: 1\n  y: 2\nb: &b\n  y: 3\n  z: 4\nc:\n  <<: [*a, *b]\n  x: 9\n")
    assert document.problems == ()
    assert isinstance(document.value, dict)
    assert document.value["c"] == {"x": 9, "y": 2, "z": 4}
    assert document.line(("c", "x")) == 9
    assert document.line(("c", "z")) == 6
    assert document.line(("c", "missing")) == 7
    assert document.line(("nowhere",)) == 1


def test_bridge_off_is_a_word_and_not_a_bool(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(GOOD.replace("user: u", "user: u, bridge: off"))
    assert load(file).controllers[0].bridge == "off"


def test_a_file_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.message == (
        f"{file}:1: cannot be read: No such file or directory; name another file with -c or $PROVISIONER_CONFIG"
    )


@pytest.mark.parametrize("path", ["/", "a\0b"])
def test_a_path_that_is_no_file_is_an_error_like_any_other(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)


def test_the_file_is_the_given_one_then_the_environments_then_the_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "env", "provisioner"):
        (tmp_path / f"{name}.yaml").write_text(GOOD.replace("id: test", f"id: {name}"))
    monkeypatch.chdir(tmp_path)
    env = {"PROVISIONER_CONFIG": "env.yaml"}
    assert load("given.yaml", env).id == "given"
    assert load(None, env).id == "env"
    assert load(None, {}).id == "provisioner"
    assert load(None, {"PROVISIONER_CONFIG": ""}).id == "provisioner"


def test_loading_tells_every_problem_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(GOOD.replace("id: test", "id: T").replace("[a]", "[]"))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [line.split(": ")[:2] for line in caught.value.message.split("\n")] == [
        [f"{file}:1", "id"],
        [f"{file}:7", "templates[0].labels"],
    ]
