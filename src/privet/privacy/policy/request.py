"""What is asked of a policy, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

Scope = Literal["dataset", "job", "month", "requester"]
Kind = Literal["train", "evaluate", "query", "open"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One use of a data set, as it is meant to happen; made before a record is read.

    dataset: its name in the ledger. task, requester, job: names as the job gives them.
    code_hash: SHA-256 of the task's code, "sha256:" and 64 hexadecimal digits or these alone.
    kind: "train"; "evaluate", whose noise is the policy's own; "query", judged as training is; or
        "open", before a task's code is loaded, when no use of the records is known yet.
    unit, mechanism, noise_multiplier, sampling_rate, clip: of the mechanism; None without one. A
        sampling rate that is not given counts as 1.
    silos_in_sum: silos whose updates are added before anyone sees the sum; None: not known.
    metrics: names of what an evaluation would like to send.
    at: now, with a time zone; a ValueError without.
    """

    dataset: str
    task: str
    requester: str
    job: str
    kind: Kind
    at: datetime
    code_hash: str | None = None
    unit: str | None = None
    mechanism: str | None = None
    noise_multiplier: float | None = None
    sampling_rate: float | None = None
    clip: float | None = None
    encrypted: bool = False
    silos_in_sum: int | None = None
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.at.utcoffset() is None:
            raise ValueError("Request.at needs a time zone")
        if self.kind not in get_args(Kind):
            raise ValueError(f"Request.kind = {self.kind!r}: it is {', '.join(get_args(Kind))}")


@dataclass(frozen=True)
class Refusal:
    """One rule that a request breaks. Safe to send: nothing here follows from the records."""

    limit: str
    """Key of the rule in the policy file, such as "training.smallest_noise_multiplier"."""
    asked: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.limit}: asked for {self.asked}; allowed: {self.allowed}"


@dataclass(frozen=True)
class BudgetLimit:
    """Largest `epsilon` at `delta`, over what `scope` takes together."""

    scope: Scope
    epsilon: float
    delta: float


@dataclass(frozen=True)
class MetricRule:
    """How the metric `name` may leave; `noise_multiplier` only with "noised"."""

    name: str
    release: Literal["withheld", "noised", "exact"]
    noise_multiplier: float | None = None


@dataclass(frozen=True)
class Decision:
    """The answer to a request; a refusal grants nothing and has no limits.

    limits: finite ones, for the ledger to keep; the policy does not know what was spent.
    metrics: a rule for every metric that was asked for, by name.
    records_public: whether the number of records may leave, as such or within another figure.
    """

    refusals: tuple[Refusal, ...]
    limits: tuple[BudgetLimit, ...] = ()
    metrics: tuple[MetricRule, ...] = ()
    records_public: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the policy has nothing against it."""
        return not self.refusals

    @property
    def reason(self) -> str:
        """All refusals in one line; empty when there are none."""
        return "; ".join(map(str, self.refusals))
