from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

pytest_plugins = ["tests.tiers"]

# how long one example takes says more about the machine's load than about us; pytest's time-out still holds
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

Dump = Callable[[], str]
_DUMPS = pytest.StashKey[list[Dump]]()


@pytest.fixture
def dump_on_failure(request: pytest.FixtureRequest) -> list[Dump]:
    """Append what tells more when this test fails: functions that return text, called only then."""
    item: pytest.Item = request.node
    return item.stash.setdefault(_DUMPS, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for dump in item.stash.get(_DUMPS, []):
            name = getattr(dump, "__name__", "dump").strip("_")
            try:
                text = dump()
            except Exception as error:  # noqa: BLE001  (the failure itself must still be reported)
                text = f"(could not be told: {error!r})"
            report.sections.append((f"{name} after {report.when}", text))
    return report
