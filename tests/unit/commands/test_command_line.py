import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner import __version__
from provisioner.commands.main import VERBS, main, parser
from provisioner.commands.options import Subparsers
from provisioner.model.errors import ConfigError, ProvisionerError

DOCS = Path(__file__).parents[3] / "docs"
SAMPLE = DOCS / "sample" / "provisioner.yaml"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    file = tmp_path / "broken.yaml"
    file.write_text(SAMPLE.read_text().replace("id: sample", "id: Sample").replace("pull: 30m", "pull: soon"))
    return file


def test_check_of_a_good_file_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(SAMPLE)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{SAMPLE}: ok, owner sample, 1 controller, 2 providers, 2 templates\n"
    assert err == ""


def test_check_of_a_bad_file_prints_every_mistake_to_stderr(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(broken)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[1] for line in err.splitlines()] == ["id", "templates[0].timeouts.pull"]


def test_check_as_json(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "-c", str(SAMPLE)]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(SAMPLE), "ok": True, "problems": [], "cautions": []}
    assert main(["check", "--json", "-c", str(broken)]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert [problem["path"] for problem in answer["problems"]] == ["id", "templates[0].timeouts.pull"]
    assert all(problem["line"] > 1 and problem["message"] for problem in answer["problems"])


def test_check_finds_its_file_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROVISIONER_CONFIG", raising=False)
    assert main(["check"]) == 2
    assert capsys.readouterr().err.startswith("provisioner.yaml:1: cannot be read: No such file")
    monkeypatch.setenv("PROVISIONER_CONFIG", str(SAMPLE))
    assert main(["check"]) == 0


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["templates"]["type"] == "array"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"provisioner {__version__}\n"
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"provisioner {__version__}\n"
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


def test_check_connect_tells_every_secret_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_TOKEN", raising=False)
    file = tmp_path / "p.yaml"
    file.write_text(
        "id: a\n"
        "controllers: [{name: m, url: 'http://127.0.0.1:1/', user: u, token: {env: NO_TOKEN}}]\n"
        "registries: [{host: r, username: u, password: {file: /nowhere/at/all}}]\n"
        "providers: [{name: here, backend: process, max_agents: 1}]\n"
        "templates: [{name: t, labels: [t], providers: [here]}]\n"
    )
    assert main(["check", "-c", str(file)]) == 0
    capsys.readouterr()
    assert main(["check", "--connect", "-c", str(file)]) == 2
    token, password = capsys.readouterr().err.splitlines()
    assert token.startswith(f"{file}:2: controllers[0].token: environment variable NO_TOKEN")
    assert password.startswith(f"{file}:3: registries[0].password: file /nowhere/at/all")


def test_check_connect_tells_every_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_TOKEN", "t")
    there = tmp_path / "there.pem"
    there.write_text("x")
    file = tmp_path / "p.yaml"
    file.write_text(
        "id: a\n"
        "controllers: [{name: m, url: 'http://127.0.0.1:1/', user: u, token: {env: A_TOKEN}}]\n"
        "providers:\n"
        "  - {name: here, backend: process, max_agents: 1}\n"
        "  - name: far\n"
        "    backend: docker\n"
        "    max_agents: 1\n"
        "    endpoint: tcp://127.0.0.1:1\n"
        f"    tls: {{ca: {there}, cert: /nowhere/cert.pem, key: {tmp_path}}}\n"
        "  - {name: box, backend: docker, max_agents: 1, endpoint: 'ssh://u@h', ssh: {key: /nowhere/id}}\n"
        "templates: [{name: t, labels: [t], providers: [here], secrets: [{file: /nowhere/s, env: S}]}]\n"
        "loans: {machines: [{controller: m, node: n, ssh: u@h, key: /nowhere/k, host_key: ssh-ed25519 AAAA}]}\n"
    )
    assert main(["check", "-c", str(file)]) == 0
    capsys.readouterr()
    assert main(["check", "--connect", "-c", str(file)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{file}:9: providers[1].tls.cert: /nowhere/cert.pem cannot be read: No such file or directory",
        f"{file}:9: providers[1].tls.key: {tmp_path} cannot be read: Is a directory",
        f"{file}:10: providers[2].ssh.key: /nowhere/id cannot be read: No such file or directory",
        f"{file}:11: templates[0].secrets[0].file: /nowhere/s cannot be read: No such file or directory",
        f"{file}:12: loans.machines[0].key: /nowhere/k cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("words", [[], ["nonsense"], ["check", "--nonsense"], ["check", "-c"], ["chec"]])
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("usage: provisioner")


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_takes_a_configuration(verb: str) -> None:
    needs_a_name = verb in ("explain", "logs", "hold", "release", "delete", "drain", "resume")
    first = ["status"] if verb == "bridge" else []
    words = [verb, *first, "-c", "x.yaml", *(["NAME"] if needs_a_name else [])]
    args = parser({verb: VERBS[verb]}).parse_args(words)
    assert args.config == "x.yaml"
    assert callable(args.run)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigError("p.yaml:1: id: is wrong"), 2, "p.yaml:1: id: is wrong\n"),
        (ProvisionerError("no answer", tail=("last", "words")), 1, "provisioner fails: no answer\nlast\nwords\n"),
        (KeyboardInterrupt(), 1, ""),
    ],
)
def test_errors_of_a_verb_become_an_exit_status(
    error: BaseException, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Verb:
        @staticmethod
        def add(subparsers: Subparsers) -> None:
            def run(args: object) -> int:
                raise error

            subparsers.add_parser("fails").set_defaults(run=run)

    monkeypatch.setitem(sys.modules, "tests_failing_verb", Verb)
    monkeypatch.setattr("provisioner.commands.main.VERBS", {"fails": "tests_failing_verb"})
    assert main(["fails"]) == status
    assert capsys.readouterr().err == words


@pytest.mark.parametrize("owner", ["BAD_ID", "a" * 41, "-a", "a.b", ""])
def test_the_bridge_serves_no_owner_that_no_configuration_can_have(
    owner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bridge", "print", "-c", str(SAMPLE), f"--owner={owner}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("--owner ")
    assert "cannot be an id; write up to 40 of a-z, 0-9 and -" in err


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=60)


def test_python_m_provisioner_is_the_same_command() -> None:
    assert python("-m", "provisioner", "version").stdout == f"provisioner {__version__}\n"
    assert python("-m", "provisioner", "check", "-c", os.devnull).returncode == 2


def test_a_verb_loads_nothing_of_the_others() -> None:
    code = "import sys; from provisioner.commands.main import main; main(['version']); print('pydantic' in sys.modules)"
    assert python("-c", code).stdout.splitlines()[-1] == "False"


def test_a_log_as_text_has_colours_on_a_terminal_only() -> None:
    code = (
        "import structlog; from provisioner.telemetry.logs import configure_logs; configure_logs(json_lines=False); "
        "structlog.get_logger().warning('a.b', why='c')"
    )
    told = python("-c", code).stderr
    assert "a.b" in told
    assert "\x1b" not in told


def test_a_reader_that_goes_away_is_no_crash() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        ended = subprocess.run(
            [sys.executable, "-m", "provisioner", "schema"],
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stderr == b""
