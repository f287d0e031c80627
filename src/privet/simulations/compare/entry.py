"""What is compared: one run, or one setting of a sweep over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from privet.simulations.sweep.results import Kind

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Records:
    """What a run folder tells of its data. Equal counts are no proof of equal records.

    Runs keep digests of their records under keys of their own, so that nobody can compare them.
    """

    training: int | None
    """In all silos together; None where it is not told, or where coins hold records out."""
    labels: Mapping[str, int] | None
    test: int | None


@dataclass(frozen=True)
class Entry:
    """A row of the comparison; means are over the seeds."""

    name: str
    source: str
    """The folder, as it is called beside the others."""
    kind: Kind
    task: str
    settings: Mapping[str, Scalar | tuple[Scalar, ...]]
    """Dotted keys with defaults, without the seed."""
    swept: tuple[str, ...]
    """The keys that the sweep varied; none for a run."""
    accuracies: Mapping[int, float]
    """By seed, after the last round; empty while the run is unfinished."""
    accuracy: float | None
    """Of an unfinished run: after its last round so far."""
    half_width: float | None
    """Of the 95 % confidence interval over seeds; None with one."""
    measured_on: Literal["test records", "silos' own records"] | None
    curve: Mapping[int, float]
    """Accuracy by round."""
    epsilon: float | None
    """Of the silo that spent most; None: no guarantee."""
    delta: float | None
    unit: str | None
    rounds_to_target: tuple[int | None, ...] | None
    """Of each seed, the first round with the wanted accuracy (None: never); None: no target."""
    seconds: float | None
    """Of one run."""
    bytes_up: float | None
    bytes_down: float | None
    records: Records
    evaluation: tuple[str, ...]
    """How silos let out the accuracy on their own records: exact, noised, withheld."""
    remarks: tuple[str, ...]
    """Why its figures do not stand beside others."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds whose result is known."""
        return tuple(self.accuracies)

    @property
    def private(self) -> bool:
        """Whether there is an epsilon to speak of."""
        return self.delta is not None
