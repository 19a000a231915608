"""When more agents, or fewer, wait for builds: hours of the week in a time zone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field

from provisioner.config.part import Part
from provisioner.config.values import Count

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00", re.ASCII)


def _time(value: str) -> str:
    if not _TIME.fullmatch(value):
        raise ValueError('is not a time of day; write one from "00:00" to "24:00", in quotes')
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone that this machine knows; write one such as Europe/Berlin or UTC") from None
    return value


Time = Annotated[str, AfterValidator(_time)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_WEEK: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class StandbyHours(Part):
    """How many agents wait during some hours of some days."""

    days: tuple[Day, ...] = Field(_WEEK, min_length=1, description="days on which the hours begin; default: all")
    from_: Time = Field("00:00", alias="from", description='when they begin, such as "07:30"')
    to: Time = Field("24:00", description="when they end, on the next day if that is not later than `from`")
    time_zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description="time zone of both, such as Europe/Berlin, with its summer time"
    )
    agents: Count = Field(description="agents kept connected and waiting during these hours")

    def cover(self, now: datetime) -> bool:
        """Whether a moment, an aware one, is within the hours."""
        there = now.astimezone(ZoneInfo(self.time_zone))
        minute = there.hour * 60 + there.minute
        begin, end = _minutes(self.from_), _minutes(self.to)
        today, yesterday = _WEEK[there.weekday()], _WEEK[(there - timedelta(days=1)).weekday()]
        if begin < end:
            return today in self.days and begin <= minute < end
        return (today in self.days and minute >= begin) or (yesterday in self.days and minute < end)


def _minutes(time: str) -> int:
    hours, _, minutes = time.partition(":")
    return int(hours) * 60 + int(minutes)


def standby_at(standby: int, hours: Sequence[StandbyHours], now: datetime) -> int:
    """How many agents are to wait now: what the first hours say that cover the moment, else the usual number."""
    return next((some.agents for some in hours if some.cover(now)), standby)
