"""When jobs may run."""

from __future__ import annotations

from datetime import datetime, time
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from privet.errors import nearest

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Hours(BaseModel):
    """One span of the day, on some days of the week, by the clock of a time zone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    timezone: str
    """A name of the time zone database, such as "Europe/Berlin"; summer time is followed."""
    days: Annotated[tuple[Day, ...], Field(strict=False)] = DAYS
    """The days on which a span begins."""
    start: Annotated[time, Field(strict=False)] = time(0)
    end: Annotated[time, Field(strict=False)] = time(0)
    """First moment outside the span; at or before `start` means on the next day."""

    @field_validator("timezone")
    @classmethod
    def _exists(cls, name: str) -> str:
        known = available_timezones()
        if name not in known:
            raise ValueError(f"there is no time zone {name!r}.{nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _without_offset(self) -> Self:
        if self.start.tzinfo or self.end.tzinfo:
            raise ValueError("start and end follow the clock of timezone; write them as 08:00")
        return self

    def __str__(self) -> str:
        days = ", ".join(day for day in DAYS if day in self.days) or "on no day"
        end = f"{self.end:%H:%M}" if self.start < self.end else f"{self.end:%H:%M} next day"
        return f"{days} from {self.start:%H:%M} to {end} ({self.timezone})"

    def clock(self, moment: datetime) -> str:
        """What clock and calendar of `timezone` show at `moment`, such as "sun 03:12"."""
        local = self._local(moment)
        return f"{DAYS[local.weekday()]} {local:%H:%M}"

    def contain(self, moment: datetime) -> bool:
        """Whether `moment`, which must have a time zone, lies in a span."""
        local = self._local(moment)
        clock, today = local.time(), DAYS[local.weekday()]
        if self.start < self.end:
            return today in self.days and self.start <= clock < self.end
        yesterday = DAYS[local.weekday() - 1]
        late, early = clock >= self.start, clock < self.end
        return (late and today in self.days) or (early and yesterday in self.days)

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.timezone))
