"""What stands between a job and a silo's records, and the leave that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from privet.client.plan import LocalPlan
from privet.client.silo import Silo
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.privacy.dp_events import DpEvent
from privet.privacy.policy import MetricRule
from privet.tasks import Examples


class Refused(PrivetError):  # noqa: N818 - it is the answer, not a fault
    """The data holder's rules do not allow what was asked; says which rule, nothing about data."""


class Admission(Protocol):
    """Leave to use the records once."""

    @property
    def plan(self) -> LocalPlan:
        """What may run: the plan that was asked for, or the same with more noise."""

    @property
    def records_public(self) -> bool:
        """Whether anything that tells the number of records may leave."""

    def records(self) -> Examples:
        """The records; from here on the reservation stands whatever happens."""

    def commit(self, event: DpEvent) -> None:
        """Charge what really ran instead of the worst case, before anything is sent."""


class Leave(Protocol):
    """Leave to measure the model once: what may be sent of it, and how."""

    @property
    def rules(self) -> tuple[MetricRule, ...]:
        """For each metric that was asked for."""

    @property
    def event(self) -> DpEvent | None:
        """The noise of all metrics that leave with noise; None when none does."""

    @property
    def records_public(self) -> bool:
        """Whether anything that tells the number of records may leave."""

    def records(self) -> Examples:
        """The records to measure on; from here on what is noised stays charged."""


class Guard(Protocol):
    """What stands before a silo's records."""

    def enter(self, experiment: Experiment) -> None:
        """Raise Refused before the task's code, which reads the records, is even loaded."""

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> int | None:
        """How many of the job's rounds fit the budget, or None where that is not told.

        Raise Refused when not even the first is allowed. Charges nothing.
        """

    def admit(
        self, experiment: Experiment, silo: Silo, plan: LocalPlan, *, round_: int
    ) -> AbstractContextManager[Admission]:
        """A context in which the records may be used once, already charged in the ledger."""

    def measure(
        self, experiment: Experiment, silo: Silo, metrics: tuple[str, ...], *, round_: int
    ) -> AbstractContextManager[Leave]:
        """A context in which `metrics` may be computed once, already charged in the ledger."""


@dataclass(frozen=True)
class FreeAdmission:
    """Records that are charged to nobody."""

    plan: LocalPlan
    examples: Examples
    records_public: bool = True

    def records(self) -> Examples:
        """The records."""
        return self.examples

    def commit(self, event: DpEvent) -> None:
        """Nothing is charged."""


@dataclass(frozen=True)
class FreeLeave:
    """Everything may be sent as it is."""

    rules: tuple[MetricRule, ...]
    examples: Examples
    event: None = None
    records_public: bool = True

    def records(self) -> Examples:
        """The records."""
        return self.examples


class Unguarded:
    """The guard of shares of one place's records: whoever deals them out has them all anyway."""

    def enter(self, experiment: Experiment) -> None:
        """Nothing is refused."""

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> int | None:  # noqa: ARG002
        """Nothing is refused."""
        return None

    @contextmanager
    def admit(
        self,
        experiment: Experiment,  # noqa: ARG002
        silo: Silo,
        plan: LocalPlan,
        *,
        round_: int,  # noqa: ARG002
    ) -> Iterator[Admission]:
        """The records, charged to nobody."""
        yield FreeAdmission(plan, silo.examples)

    @contextmanager
    def measure(
        self,
        experiment: Experiment,  # noqa: ARG002
        silo: Silo,
        metrics: tuple[str, ...],
        *,
        round_: int,  # noqa: ARG002
    ) -> Iterator[Leave]:
        """Every metric, exactly."""
        yield FreeLeave(tuple(MetricRule(name, "exact") for name in metrics), silo.held_out())
