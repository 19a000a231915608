"""The compose file and its images: what must hold whatever is changed in them."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from provisioner.config import load

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SIDECAR = SERVICES["provisioner"]
PINS = tomllib.loads((ROOT / "jenkins-test" / "pins.toml").read_text())


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, each on one line, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "docker" / name / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (f"{key}={text}" for text in texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    else:
        yield str(value)


def test_the_sidecar_runs_without_root_and_writes_only_its_state() -> None:
    assert SIDECAR["read_only"] is True
    assert SIDECAR["user"].split(":")[0] not in {"0", "root", ""}
    assert SIDECAR["cap_drop"] == ["ALL"]
    assert SIDECAR["security_opt"] == ["no-new-privileges:true"]
    assert SIDECAR["tmpfs"] == ["/tmp"]
    assert not SIDECAR.get("privileged")
    writable = [v for v in SIDECAR["volumes"] if not (v.endswith(":ro") if isinstance(v, str) else v["read_only"])]
    assert writable == ["provisioner-state:/var/lib/provisioner", "/var/run/docker.sock:/var/run/docker.sock"]


def test_the_sidecar_is_in_the_groups_of_the_socket_and_of_the_token() -> None:
    socket, token = SIDECAR["group_add"]
    assert socket.startswith("${DOCKER_GID:?")  # never a guess
    assert token == "1000"
    assert "r--r-----" in (ROOT / "docker" / "jenkins" / "token.groovy").read_text()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docker").iterdir() if path.is_dir()))
def test_an_image_ends_without_root_and_is_bound_to_no_architecture(name: str) -> None:
    made = instructions(name)
    users = [rest for word, rest in made if word == "USER"]
    assert users[-1].split(":")[0] not in {"root", "0"}
    assert made[0][0] == "ARG"
    assert made[0][1].startswith("BASE=")  # a local image can take its place
    assert {rest.split()[0] for word, rest in made if word == "FROM"} == {"${BASE}"}
    assert not re.search(r"amd64|x86_64|arm64|aarch64", " ".join(rest for _, rest in made))


def test_the_sidecars_image_installs_by_hash_only() -> None:
    runs = " ".join(rest for word, rest in instructions("sidecar") if word == "RUN")
    for command in re.findall(r"pip (?:install|wheel) [^&]*", runs):
        assert "--require-hashes" in command or "--no-deps" in command, command
    assert "requirements/run.lock" in runs


@pytest.mark.parametrize(("name", "what"), [("sidecar", "/healthz"), ("jenkins", "$TOKEN_FILE")])
def test_an_image_tells_its_health(name: str, what: str) -> None:
    (check,) = [rest for word, rest in instructions(name) if word == "HEALTHCHECK"]
    assert what in check


def test_the_health_check_asks_where_the_sample_listens() -> None:
    (check,) = [rest for word, rest in instructions("sidecar") if word == "HEALTHCHECK"]
    port = load(ROOT / "docker" / "provisioner.yaml", {}).http.port
    assert f"'127.0.0.1', {port}" in check
    assert SIDECAR["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_every_published_port_is_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_stands_in_a_file() -> None:
    casc = yaml.safe_load((ROOT / "docker" / "jenkins" / "jenkins.yaml").read_text())
    users = casc["jenkins"]["securityRealm"]["local"]["users"]
    assert {user["id"] for user in users} == {"admin", "provisioner"}
    assert all(re.fullmatch(r"\$\{[A-Z_]+\}", user["password"]) for user in users)
    for name in (user["password"][2:-1] for user in users):
        assert name in (ROOT / "docker" / "jenkins" / "start.sh").read_text()
    for text in texts(COMPOSE):
        assert not re.search(r"(?i)(password|token|secret)[^/]*=[^/{$]{8,}$", text), text


def test_jenkins_runs_no_build_itself_and_is_up_before_the_sidecar() -> None:
    casc = yaml.safe_load((ROOT / "docker" / "jenkins" / "jenkins.yaml").read_text())
    assert casc["jenkins"]["numExecutors"] == 0
    assert SIDECAR["depends_on"]["jenkins"] == {"condition": "service_healthy"}


def test_the_sidecars_configuration_fits_the_compose_file() -> None:
    settings = load(ROOT / "docker" / "provisioner.yaml", {})
    (controller,) = settings.controllers
    (provider,) = settings.providers
    (template,) = settings.templates
    assert controller.url == "http://jenkins:8080/"
    assert "jenkins" in SERVICES
    mounts = [v["target"] for v in SIDECAR["volumes"] if isinstance(v, Mapping)]
    assert controller.token.file is not None
    assert str(Path(controller.token.file).parent) in mounts
    assert provider.network == COMPOSE["networks"]["default"]["name"]
    assert template.image == SERVICES["agent-image"]["image"]
    assert template.pull == "never"  # it is made here, no registry has it
    labels = ET.parse(ROOT / "docker/jenkins/jobs/hello-freestyle/config.xml").iter("assignedNode")
    assert [label.text for label in labels] == list(template.labels)


def test_every_sample_job_gets_into_the_image() -> None:
    copied = " ".join(rest for word, rest in instructions("jenkins") if word == "COPY")
    jobs = sorted(path.name for path in (ROOT / "docker" / "jenkins" / "jobs").iterdir())
    assert jobs == ["hello-freestyle", "hello-pipeline", "node-cleanup"]
    for job in jobs:
        # what XML 1.1 allows beyond 1.0 is not used, and this parser knows only 1.0
        text = (ROOT / "docker" / "jenkins" / "jobs" / job / "config.xml").read_text()
        assert ET.fromstring(text.replace("version='1.1'", "version='1.0'")) is not None
        assert f"jobs/{job}/config.xml.override" in copied


def test_jenkins_has_the_version_that_the_tests_are_pinned_to() -> None:
    (base,) = [rest for word, rest in instructions("jenkins") if word == "ARG"]
    version = re.fullmatch(r"BASE=jenkins/jenkins:([0-9.]+)-lts-jdk([0-9]+)", base)
    assert version is not None
    assert (version[1], int(version[2])) == (PINS["core"]["version"], PINS["core"]["java"])
    assert f"jenkins/jenkins:{version[1]}-lts-jdk{version[2]}" in SERVICES["jenkins"]["build"]["args"]["BASE"]
    assert {"configuration-as-code", "workflow-aggregator"} <= set(PINS["plugins"])


def test_the_plugins_of_the_pins_are_what_the_image_installs() -> None:
    (run,) = [rest for word, rest in instructions("jenkins") if word == "RUN" and "pins.toml" in rest]
    pattern = re.search(r"s/(\^.*?\.\*)/\\1:\\2/p", run)
    assert pattern is not None
    python = pattern[1].replace(r"\(", "(").replace(r"\)", ")")
    lines = (ROOT / "jenkins-test" / "pins.toml").read_text().splitlines()
    found = {match[1]: match[2] for line in lines if (match := re.match(python, line))}
    assert found == {name: pin["version"] for name, pin in PINS["plugins"].items()}
