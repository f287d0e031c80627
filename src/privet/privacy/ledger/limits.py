"""How much may be spent, and the refusal when a round would exceed it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from privet.errors import PrivacyError
from privet.privacy.accounting.spending import check_delta
from privet.privacy.ledger.errors import LedgerRefusal

Scope = Literal["dataset", "job", "month", "requester"]

_OF_WHAT = {
    "dataset": "over the life of the data set",
    "job": "per job",
    "month": "per calendar month (UTC)",
    "requester": "per requester",
}


@dataclass(frozen=True)
class Limit:
    """At most `epsilon` at `delta`, for all that a data set spends within one `scope`.

    "dataset": over its whole life. "job", "requester": by that job, that requester. "month": in the
    calendar month (UTC) of the reservation. PrivacyError for values out of range.
    """

    epsilon: float
    delta: float
    scope: Scope = "dataset"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise PrivacyError(f"limit: epsilon = {self.epsilon} must be finite and at least 0")
        check_delta(self.delta)
        if self.scope not in get_args(Scope):
            known = ", ".join(get_args(Scope))
            raise PrivacyError(f"limit: scope = {self.scope!r} must be one of {known}")

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g} at delta {self.delta:g} {_OF_WHAT[self.scope]}"


@dataclass(frozen=True)
class Projection:
    """What a limit's scope has spent, and what it would have spent after one more event."""

    limit: Limit
    spent: float
    projected: float

    @property
    def fits(self) -> bool:
        """Whether the limit would still hold."""
        return self.projected <= self.limit.epsilon


class BudgetExceeded(LedgerRefusal):
    """A reservation that would break a limit; nothing was recorded."""

    def __init__(self, projection: Projection) -> None:
        self.limit = projection.limit
        self.spent = projection.spent
        self.projected = projection.projected
        super().__init__(
            f"the limit is {self.limit}; spent so far is {self.spent:.4g}, "
            f"and this round would make it {self.projected:.4g}"
        )
