"""What a policy file can say about one data set. Defaults are the closed end of every rule.

`"*"` stands for any name, wherever names are listed. A mistake in the file is a PolicyError: one
line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, time
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from privet.errors import PrivetError, nearest

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
    """First moment of the span."""
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
        # A span over midnight belongs to the day on which it begins.
        yesterday = DAYS[local.weekday() - 1]
        late, early = clock >= self.start, clock < self.end
        return (late and today in self.days) or (early and yesterday in self.days)

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.timezone))


ANY = "*"
COUNTED_METRICS = ("accuracy", "scores")
"""A share of records, and counts of scores by class: only these can be released with noise."""

Positive = Annotated[float, Field(gt=0)]
Limit = Positive | None
"""Largest epsilon; inf is allowed and says that there is no limit."""


class _Table(BaseModel):
    # Strict, since "1" for 1 in a policy is a slip that someone should see; but for tuples, field
    # by field: TOML has lists alone.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Budget(_Table):
    """Largest privacy loss of each record, as epsilon at `delta`."""

    epsilon: Positive
    """Over the whole life of the ledger, all jobs together; inf: no limit, hence no promise."""
    delta: Annotated[float, Field(ge=1e-12, le=0.01)]
    """At which all epsilons of this data set are counted."""
    epsilon_per_job: Limit = None
    """Of one job."""
    epsilon_per_month: Limit = None
    """In a calendar month, UTC."""
    epsilon_per_requester: Limit = None
    """Of all jobs of one requester."""

    def finite(self) -> bool:
        """Whether any of the limits can ever be reached."""
        limits = (self.epsilon_per_job, self.epsilon_per_month, self.epsilon_per_requester)
        return any(limit is not None and limit < math.inf for limit in (self.epsilon, *limits))


class Training(_Table):
    """How records may be used. Queries with noise follow the same rules."""

    plain: bool = False
    """Without differential privacy."""
    units: Annotated[tuple[Literal["record", "client"], ...], Field(strict=False)] = ("record",)
    """Whose presence a job's epsilon may be about."""
    mechanisms: Annotated[tuple[Literal["dp-sgd", "gaussian"], ...], Field(strict=False)] = (
        "dp-sgd",
    )
    """What may put noise on what is learned."""
    smallest_noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Standard deviation of the noise over the clip norm."""
    smallest_sampling_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Expected share of the records in one step."""
    largest_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Expected share of the records in one step."""
    keep_own_parts: bool = False
    """What stays here of a job's model (`federation.local`) is kept when its order has ended."""
    uncovered_preprocessing: bool = False
    """Inputs or splits that depend on other records, such as scaling by their own mean and
    deviation: no epsilon covers that."""

    @model_validator(mode="after")
    def _rates_in_order(self) -> Self:
        low, high = self.smallest_sampling_rate, self.largest_sampling_rate
        if low > high:
            raise ValueError(
                f"smallest_sampling_rate = {low:g} is above largest_sampling_rate = {high:g}"
            )
        return self


class Sending(_Table):
    """What may travel beside the metrics, and how."""

    records_public: bool = False
    """Whether the number of records may be sent."""
    encryption_required: bool = False
    """Whether updates in the clear are refused."""
    smallest_sum: Annotated[int, Field(ge=1)] = 1
    """Fewest silos whose updates are added before anyone uses the sum."""
    most_failures: Annotated[int, Field(ge=0)] = 20
    """Answers to one requester that say that something failed or was refused once the records were
    opened. Each may tell a bit of them; after so many all further ones are "refused"."""


class MetricRelease(_Table):
    """How one metric of an evaluation on private records leaves the silo."""

    release: Literal["withheld", "noised", "exact"]
    """Not at all, with noise on its counts, or as it is."""
    noise_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Noise on the counts over their L2 sensitivity to one record; only with "noised"."""

    @model_validator(mode="after")
    def _noise_where_noised(self) -> Self:
        if self.release == "noised" and self.noise_multiplier is None:
            raise ValueError('release = "noised" needs a noise_multiplier, such as 20.0')
        if self.release != "noised" and self.noise_multiplier is not None:
            raise ValueError(f'release = "{self.release}" has no noise; leave noise_multiplier out')
        return self


def _code_hash(text: str) -> str:
    if text == ANY:
        return text
    if not re.fullmatch(r"(sha256:)?[0-9a-fA-F]{64}", text):
        raise ValueError(f'{text!r} is not "sha256:" and 64 hexadecimal digits')
    return "sha256:" + text.lower().removeprefix("sha256:")


def _task_name(name: str) -> str:
    if ":" in name:
        raise ValueError(
            f"{name!r} is a task of someone's own, and a name says nothing about what its code "
            "does; allow it by the hash of its code, in code"
        )
    return name


Name = Annotated[str, Field(min_length=1)]


class Rules(_Table):
    """Everything about one data set. Asked for, but not allowed here, is refused."""

    requesters: Annotated[tuple[Name, ...], Field(strict=False)]
    """Who may ask."""
    tasks: Annotated[tuple[Annotated[Name, AfterValidator(_task_name)], ...], Field(strict=False)]
    """Tasks that come with privet, by name."""
    budget: Budget
    code: Annotated[
        tuple[Annotated[str, AfterValidator(_code_hash)], ...], Field(strict=False)
    ] = ()
    """Tasks of someone's own, by the SHA-256 of their code."""
    attempts_per_round: Annotated[int, Field(ge=1)] = 3
    """Most times that one round of a job may use the records: a server that lost a reply asks
    again."""
    largest_order_days: Annotated[int, Field(ge=1, le=3660)] = 90
    """Days from now within which a job's order must end."""
    approval: Literal["policy", "each-job"] = "policy"
    """"each-job": what the policy allows waits until somebody at the silo approves the job."""
    training: Training = Training()
    sending: Sending = Sending()
    metrics: dict[str, MetricRelease] = Field(default_factory=dict)
    """By name of the metric; one that is not here is withheld."""
    hours: Hours | None = None
    """Unset: at any time."""

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        # A limit that the first round would exceed promises something that cannot be kept.
        if self.training.plain and self.budget.finite():
            raise ValueError(
                "training.plain = true spends more than any epsilon; it needs budget.epsilon = inf "
                "and no other limit"
            )
        for name, metric in self.metrics.items():
            if metric.release == "noised" and name not in COUNTED_METRICS:
                raise ValueError(
                    f"metrics.{name}: noise can be added to counts only, which are behind "
                    f'{", ".join(COUNTED_METRICS)}; choose "withheld" or "exact"'
                )
        return self

    def asks_about(self, requester: str) -> bool:
        """Whether a job of this requester waits for a person; of others none runs anyway."""
        listed = ANY in self.requesters or requester in self.requesters
        return self.approval == "each-job" and listed

    def metric(self, name: str) -> MetricRelease:
        """The rule of metric `name`."""
        return self.metrics.get(name) or self.metrics.get(ANY) or MetricRelease(release="withheld")


Location = tuple[int | str, ...]


class PolicyError(PrivetError):
    """No policy, one that cannot be read, or one with a mistake: nothing may run."""


def one_line(error: ValidationError, *, known: Callable[[Location], Sequence[str]]) -> str:
    """The first mistake in `error`; `known` gives the keys that are possible at a location."""
    found = error.errors(include_url=False)
    # A misspelt key is often a missing one too; the spelling is what has to be mended.
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    if first["type"] == "extra_forbidden":
        return _unknown(first["loc"], known(first["loc"]))
    return _sentence(first)


def _unknown(location: Location, known: Sequence[str]) -> str:
    hint = nearest(str(location[-1]), known)
    return f"unknown key '{_dotted(location)}'.{hint} Known: {', '.join(known)}"


def _sentence(mistake: ErrorDetails) -> str:
    key, message = _dotted(mistake["loc"]), mistake["msg"]
    match mistake["type"]:
        case "missing":
            return f"'{key}' is missing"
        case "value_error":
            cause = message.removeprefix("Value error, ")
            return f"{key}: {cause}" if key else cause
        case "model_type" | "dict_type":
            message = "must be a table"
        case "tuple_type":
            message = 'must be a list, such as ["name"]'
    return f"{key} = {mistake['input']!r}: {message[0].lower()}{message[1:]}"


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))
