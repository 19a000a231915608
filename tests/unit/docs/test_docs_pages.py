"""The pages say what the program does: generated ones are fresh, links lead somewhere, samples are valid."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from provisioner.config import Settings, examine_bytes
from provisioner.config.not_yet import ROWS
from provisioner.lifecycle.outlook import Outlook
from provisioner.model.errors import BUILDS_OWN_FAULT, NEXT_STEP, WORLDS_FAULT, Reason
from provisioner.telemetry.metrics import Metrics, Population
from provisioner.web.health import readiness
from tests.fakes.backend import FakeBackend
from tests.fakes.controller import FakeController
from tests.unit.lifecycle.conftest import House

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
TROUBLE = (DOCS / "troubleshooting.md").read_text()
OPERATIONS = (DOCS / "operations.md").read_text()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def section(reason: Reason) -> str:
    """What stands under a reason's heading."""
    parts = re.split(r"^### `(\w+)`$", TROUBLE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[reason.value]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_configuration_page_is_what_the_schema_says() -> None:
    command = [sys.executable, str(ROOT / "tools" / "configuration_reference.py"), "--check"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_every_key_that_does_not_work_yet_is_marked_in_the_configuration_page() -> None:
    text = (DOCS / "configuration.md").read_text()
    for row in ROWS:
        head, _, key = row.path.removesuffix("[]").rpartition(".")
        part = text.split(f"## `{head}`\n" if head else "## Top level\n", 1)[1].split("\n## ", 1)[0]
        (line,) = [line for line in part.splitlines() if line.startswith(f"| `{key}` |")]
        assert "*Not yet" in line, row.path


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "getting-started.md"], ids=lambda page: page.name)
def test_the_configurations_of_a_page_are_valid(page: Path) -> None:
    found = blocks(page, "yaml")
    assert found
    for text in found:
        assert examine_bytes(text.encode(), page.name).findings == ()


def test_the_mistakes_that_getting_started_shows_are_told_so() -> None:
    wrong = """\
id: first
controllers:
  - name: main
    url: jenkins:8080
    user: provisioner
    token: 11aabbcc
providers:
  - name: engine
    backend: docker
    max_agents: 4
templates:
  - name: small
    labels: [small]
    providers: [engine]
    imge: eclipse-temurin:17
"""
    told = "\n".join(map(str, examine_bytes(wrong.encode(), "wrong.yaml").findings))
    assert f"$ provisioner check -c wrong.yaml\n{told}\n" in (DOCS / "getting-started.md").read_text()


async def test_what_getting_started_shows_of_a_sidecar_is_what_it_says(tmp_path: Path) -> None:
    page = (DOCS / "getting-started.md").read_text()
    (text,) = blocks(DOCS / "getting-started.md", "yaml")
    value = {**yaml.safe_load(text), "state": str(tmp_path / "state.db")}
    house = House(Settings.model_validate(value), FakeController(), FakeBackend())
    house.revive()
    try:
        await house.until(lambda: readiness(house.engine).ok)
        found = readiness(house.engine)
        ready = json.dumps({"ok": found.ok, **found.detail}, indent=1)
        assert f"$ curl -s http://127.0.0.1:8085/readyz\n{ready}\n" in page
        for asked, label in (("small", "small"), ("'small && linux'", "small && linux")):
            said = "\n".join(Outlook(house.engine).explain_label(label).lines())
            assert f"$ provisioner explain {asked}\n{said}\n" in page
    finally:
        await house.kill()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_section_with_what_to_do_and_causes(reason: Reason) -> None:
    text = section(reason)
    assert f"**What to do:** {NEXT_STEP[reason]}\n" in text
    assert re.search(r"^- \S", text, flags=re.MULTILINE)


@pytest.mark.parametrize("reason", Reason)
def test_a_section_says_whether_its_build_ends_or_waits(reason: Reason) -> None:
    first = section(reason).strip().split(" **What to do:**")[0]
    assert (first == "Ends the build.") == (reason in BUILDS_OWN_FAULT)
    assert (first == "Waits.") == (reason in WORLDS_FAULT)


def test_no_section_is_for_a_reason_that_there_is_not() -> None:
    assert set(re.findall(r"^### `(\w+)`$", TROUBLE, flags=re.MULTILINE)) == {reason.value for reason in Reason}


def metrics() -> dict[str, set[str]]:
    """The labels of every metric, by its name without the prefix."""
    every = Metrics()
    every.expect(controllers=["main"], templates=["maven"])
    every.phase("request_to_online_seconds", "main", 1.0)
    now = Population(
        agents=[("main", "idle", "box", "maven")],
        requests=[],
        oldest_s={},
        capacity={"box": 1},
        breakers=[("box", "maven", False)],
        controllers_up={"main": True},
        modes={"main": "off"},
        controller_requests={"main": {("poll", "200"): 1}},
    )
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(every.render(now).decode()):
        name = family.name.removeprefix("jenkins_provisioner_") + ("_total" if family.type == "counter" else "")
        if name.endswith("_created"):
            continue  # the library's own companion of each counter and histogram
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    return found


def test_the_operations_page_lists_every_metric_with_its_labels() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ([a-z, ]+) \|", OPERATIONS, flags=re.MULTILINE)
    told = {name: set(labels.split(", ")) for name, labels in rows}
    assert told == metrics()


def test_the_alerts_ask_for_metrics_that_exist_and_are_all_explained() -> None:
    groups = yaml.safe_load((DOCS / "sample" / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    known = metrics()
    for rule in rules:
        for name in re.findall(r"jenkins_provisioner_(\w+)", rule["expr"]):
            assert name in known, rule["alert"]
        assert f"| `{rule['alert']}` |" in OPERATIONS
    assert len(rules) == len(re.findall(r"^\| `[A-Z]\w+` \|", OPERATIONS, flags=re.MULTILINE))


def test_the_service_runs_the_verb_and_leaves_agents_alone() -> None:
    unit = (DOCS / "sample" / "provisioner.service").read_text()
    assert re.search(r"^ExecStart=\S+/provisioner run -c \S+\.yaml$", unit, flags=re.MULTILINE)
    assert "KillMode=process\n" in unit  # agents of the process backend are in its control group
    assert "RestartPreventExitStatus=2\n" in unit


def test_the_readme_stays_short_and_names_all_verbs_that_are_missing() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    from provisioner.commands.main import VERBS

    (line,) = [line for line in text.splitlines() if line.startswith("- **Not yet as commands:**")]
    missing = set(re.findall(r"`(\w+)`", line))
    assert not missing & set(VERBS)
    assert missing | set(VERBS) >= {"run", "check", "doctor", "list", "explain", "cleanup", "loan", "bridge", "schema"}
