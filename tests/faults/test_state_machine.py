"""Whatever happens in whatever order: no cap is exceeded, no build lost or doubled, and in the end nothing is left."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.machine import LifeOfAgents

_COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, database=None)


def test_the_guarantees_hold_in_any_order_of_events() -> None:
    run_state_machine_as_test(
        LifeOfAgents, settings=settings(_COMMON, derandomize=True, max_examples=60, stateful_step_count=40)
    )


@pytest.mark.slow
def test_the_guarantees_hold_in_orders_that_nobody_has_tried() -> None:
    run_state_machine_as_test(LifeOfAgents, settings=settings(_COMMON, max_examples=2000, stateful_step_count=80))
