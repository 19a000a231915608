from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.config import examine, examine_bytes
from provisioner.config.not_yet import ROWS, NotYet, not_yet
from tests.unit.config.config_samples import changed, told

SPEC_SAMPLE = Path(__file__).parent / "spec_sample.yaml"
T = "templates.0"

USES: list[tuple[str, list[tuple[str, Any]], str]] = [
    ("providers[].backend", [("providers.1.backend", "kubernetes")], 'providers[1].backend: "kubernetes" is not yet'),
    ("templates[].build", [(f"{T}.build", {"context": "."}), (f"{T}.image", None)], "templates[0].build: is not yet"),
    ("templates[].sidecars", [(f"{T}.sidecars", [{"name": "a", "image": "b"}])], "templates[0].sidecars: is not yet"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
def test_each_missing_feature_is_refused_where_it_is_used(row: NotYet) -> None:
    (use,) = [use for use in USES if use[0] == row.path]
    lines = told(*use[1])
    (line,) = [line for line in lines if line.startswith(use[2])]
    assert line.endswith(f"is not yet supported; {row.instead}")
    assert all("not yet supported" in line for line in lines)


def test_nothing_that_was_refused_once_is_still_in_these_tests_after_it_works() -> None:
    assert [use[0] for use in USES] == [row.path for row in ROWS]


def test_empty_values_of_missing_features_are_fine() -> None:
    assert (
        told(
            (f"{T}.resources", {"devices": [], "gpus": 0}),
            (f"{T}.secrets", []),
            (f"{T}.volumes", []),
            (f"{T}.sidecars", []),
            (f"{T}.overrides", {}),
            (f"{T}.standby", 0),
            (f"{T}.hold_on_failure", 0),
            (f"{T}.build", None),
        )
        == []
    )


def test_a_row_less_is_a_feature_more() -> None:
    value = {"build": {"context": "."}, "sidecars": [{"name": "a"}]}
    fewer = tuple(row for row in ROWS if row.path != "templates[].build")
    assert [problem.path for problem in not_yet("templates", 3, value)] == [
        ("templates", 3, "build"),
        ("templates", 3, "sidecars"),
    ]
    assert [problem.path for problem in not_yet("templates", 3, value, fewer)] == [("templates", 3, "sidecars")]


@pytest.mark.parametrize("path", [row.path for row in ROWS])
def test_each_row_names_a_key_of_the_schema(path: str) -> None:
    from provisioner.config.shape import description_at

    keys: list[str | int] = []
    for part in path.split("."):
        keys += [part.removesuffix("[]"), *([0] if part.endswith("[]") else [])]
    assert description_at(tuple(keys))


def test_the_sample_of_the_contract_has_no_mistake_but_what_is_not_there_yet() -> None:
    findings = examine(SPEC_SAMPLE).findings
    assert [str(finding) for finding in findings if "is not yet supported; " not in finding.text] == []
    lines = SPEC_SAMPLE.read_text().splitlines()
    for finding in findings:
        last = finding.path.split(".")[-1].split("[")[0]
        assert last in lines[finding.line - 1], finding
    assert [finding.path for finding in findings] == [
        "providers[1].backend",
        "templates[0].sidecars",
        "templates[1].build",
    ]


def test_the_line_is_that_of_the_key() -> None:
    text = yaml.safe_dump(changed(("providers.1.backend", "kubernetes")), sort_keys=False)
    finding = examine_bytes(text.encode(), "provisioner.yaml").findings[0]
    line = 1 + next(n for n, words in enumerate(text.splitlines()) if "kubernetes" in words)
    assert str(finding) == (
        f'provisioner.yaml:{line}: providers[1].backend: "kubernetes" is not yet supported; use docker or process'
    )
