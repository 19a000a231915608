from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.plumbing.plumbing_site import Site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = Site()
    yield made
    made.close()
