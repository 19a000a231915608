"""Whatever stands in the file, the loader ends with settings or with a ConfigError."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.config import Settings, examine_bytes, load
from provisioner.model.errors import ConfigError
from tests.unit.config.config_samples import BASE

SPEC_SAMPLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "spec_sample.yaml").read_text())
KEYS = sorted(
    {
        *Settings.model_fields,
        *BASE["templates"][0],
        *BASE["providers"][0],
        *BASE["controllers"][0],
        *SPEC_SAMPLE["templates"][0],
        "env",
        "file",
        "docker",
    }
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["docker", "main", "box", "4g", "90s", "off", "{image}", "http://[", "unix://", "\0", "a" * 300])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


def examine_any(value: object) -> None:
    found = examine_bytes(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"), "p.yaml")
    assert (found.settings is None) == bool(found.findings)
    for finding in found.findings:
        assert finding.line >= 1
        assert finding.text


@given(anything)
def test_any_value(value: object) -> None:
    examine_any(value)


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), anything))
def test_any_value_under_the_known_keys(value: object) -> None:
    examine_any(value)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_at_any_place_of_the_contracts_sample(data: st.DataObject) -> None:
    value = copy.deepcopy(SPEC_SAMPLE)
    for place in data.draw(st.lists(st.sampled_from(places(SPEC_SAMPLE)[1:]), min_size=1, max_size=3)):
        inner: Any = value
        try:
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = data.draw(anything)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    examine_any(value)


@given(st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"%@`#?,<\\ \n\tU0", max_size=40).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    found = examine_bytes(data, "p.yaml")
    assert found.settings is None
    assert found.findings


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(value=anything)
def test_loading_raises_nothing_else(tmp_path: Path, value: object) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(value), encoding="utf-8", errors="replace")
    with pytest.raises(ConfigError):
        load(file)
