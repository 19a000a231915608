from datetime import UTC, datetime

import pytest

from provisioner.config import Template
from provisioner.config.standby_hours import StandbyHours
from tests.unit.config.config_samples import told

WORK = {"days": ["mon", "fri"], "from": "07:30", "to": "19:00", "time_zone": "Europe/Berlin", "agents": 4}
NIGHT = {"days": ["fri"], "from": "22:00", "to": "02:00", "agents": 1}


@pytest.mark.parametrize(
    ("hours", "moment", "covered"),
    [
        # in summer 07:30 in Berlin is 05:30 in UTC, in winter 06:30
        (WORK, datetime(2026, 7, 6, 5, 29, tzinfo=UTC), False),
        (WORK, datetime(2026, 7, 6, 5, 30, tzinfo=UTC), True),
        (WORK, datetime(2026, 1, 5, 6, 29, tzinfo=UTC), False),
        (WORK, datetime(2026, 1, 5, 6, 30, tzinfo=UTC), True),
        (WORK, datetime(2026, 1, 5, 18, 0, tzinfo=UTC), False),
        (WORK, datetime(2026, 1, 6, 12, 0, tzinfo=UTC), False),  # a Tuesday
        # over midnight the hours belong to the day on which they begin
        (NIGHT, datetime(2026, 1, 9, 22, 0, tzinfo=UTC), True),
        (NIGHT, datetime(2026, 1, 10, 1, 59, tzinfo=UTC), True),
        (NIGHT, datetime(2026, 1, 10, 2, 0, tzinfo=UTC), False),
        (NIGHT, datetime(2026, 1, 10, 22, 0, tzinfo=UTC), False),
        ({"agents": 1}, datetime(2026, 1, 10, 23, 59, tzinfo=UTC), True),
    ],
)
def test_hours_cover_what_they_say(hours: dict[str, object], moment: datetime, covered: bool) -> None:
    assert StandbyHours.model_validate(hours).cover(moment) is covered


def test_the_first_entry_that_covers_the_moment_holds_and_else_the_usual_number() -> None:
    template = Template.model_validate(
        {"name": "t", "labels": ["x"], "providers": ["p"], "standby": 2, "standby_hours": [NIGHT, WORK]}
    )
    assert template.standby_at(datetime(2026, 1, 9, 23, 0, tzinfo=UTC)) == 1
    assert template.standby_at(datetime(2026, 1, 9, 12, 0, tzinfo=UTC)) == 4
    assert template.standby_at(datetime(2026, 1, 10, 12, 0, tzinfo=UTC)) == 2
    assert Template.from_spec(template.spec()) == template


@pytest.mark.parametrize(
    ("wrong", "key", "words"),
    [
        ({"from": "7:30"}, ".from", "is not a time of day"),
        ({"to": "24:30"}, ".to", "is not a time of day"),
        ({"time_zone": "Mars/Olympus"}, ".time_zone", "is not a time zone that this machine knows"),
        ({"days": ["monday"]}, ".days[0]", "is not known here; write mon"),
        ({"agents": -1}, ".agents", "must be at least 0"),
    ],
)
def test_what_is_no_time_is_refused(wrong: dict[str, object], key: str, words: str) -> None:
    (said,) = told(("templates.0.standby_hours", [{"agents": 1, **wrong}]))
    assert said.startswith(f"templates[0].standby_hours[0]{key}: ")
    assert words in said
