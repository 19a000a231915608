"""The metrics of the contract: their names, and that known series exist from the start, at zero."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provisioner.telemetry.metrics import Metrics, Population

ROOT = Path(__file__).resolve().parents[3]
NOBODY = Population(
    agents=(),
    requests=(),
    oldest_s={},
    capacity={"box": 3},
    breakers=[("box", "maven", False)],
    controllers_up={"main": False},
    modes={},
    controller_requests={},
    places=[("main", "box", "maven")],
)


@pytest.fixture
def scrape() -> str:
    metrics = Metrics()
    metrics.expect(controllers=["main"], templates=["maven"])
    return metrics.render(NOBODY).decode()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("queue_to_request_seconds", "histogram"),
        ("request_to_online_seconds", "histogram"),
        ("online_to_started_seconds", "histogram"),
        ("finished_to_removed_seconds", "histogram"),
        ("agents", "gauge"),
        ("requests", "gauge"),
        ("oldest_request_age_seconds", "gauge"),
        ("capacity", "gauge"),
        ("breaker_open", "gauge"),
        ("controller_up", "gauge"),
        ("bridge_mode", "gauge"),
        ("build_info", "gauge"),
        ("launches_total", "counter"),
        ("orphans_removed_total", "counter"),
        ("controller_requests_total", "counter"),
        ("errors_total", "counter"),
    ],
)
def test_every_metric_has_a_series_before_anything_happened(scrape: str, name: str, kind: str) -> None:
    assert f"# TYPE jenkins_provisioner_{name} {kind}\n" in scrape
    series = re.findall(rf"^jenkins_provisioner_{name}(?:_count)?{{.*}} (\S+)$", scrape, re.MULTILINE)
    assert series
    if name not in ("capacity", "build_info"):
        assert set(series) == {"0.0"}


def test_there_is_no_other_metric(scrape: str) -> None:
    assert len(re.findall("^# TYPE ", scrape, re.MULTILINE)) == 16


def test_everything_that_controllers_are_asked_is_known(scrape: str) -> None:
    source = "".join(file.read_text() for file in (ROOT / "provisioner" / "controller").glob("*.py"))
    for op in {*re.findall(r'op="([a-z_]+)"', source), "crumb"}:
        assert f'controller_requests_total{{code="200",controller="main",op="{op}"}} 0.0' in scrape
