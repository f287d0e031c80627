"""Which round's model a run leaves, where records for validation choose among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.metrics import ACCURACY, LOSS
from privet.record.history import RoundRecord
from privet.vectors import Vector

BEST = "best.weights"
"""Of a checkpoint's tensors."""


class BestModel:
    """The best model so far by the task's headline on the records for validation.

    A task that declares none is judged by accuracy. Of equal ones, and where there is no accuracy,
    it is the one with the smaller loss, and then the earlier one. A figure that is no finite number
    is worse than any other.
    """

    def __init__(self, *, records: int, patience: int | None) -> None:
        """`records` for validation; `patience`: rounds without a better model after which a run
        should end."""
        self.records = records
        self._patience = patience
        self.entry: RoundRecord | None = None
        """The line of its round, whose figures are those of validation."""
        self.weights: Vector | None = None
        """Shape (d,)."""

    def look(self, entry: RoundRecord, weights: Vector | None) -> None:
        """Take the model of this round for the best one, if it is."""
        if self.entry is None or worth(entry) > worth(self.entry):
            self.entry = entry
            self.weights = None if weights is None else weights.copy()

    def enough(self, round_: int) -> str | None:
        """Why the run should end after `round_`; None where it should go on."""
        best = self.entry.round if self.entry else 0
        if self._patience is None or round_ - best < self._patience:
            return None
        return (
            f"no model was better on the records for validation than that of round {best} for "
            f"{round_ - best} rounds (validation.patience = {self._patience})"
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps beside the history."""
        return {} if self.weights is None else {BEST: self.weights}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Go on from a checkpoint, after all lines up to it were looked at."""
        self.weights = tensors[BEST]


def refuse_validation(experiment: Experiment) -> None:
    """ExperimentError for [validation] where the coordinator has no records of silos."""
    if experiment.validation is not None:
        raise ExperimentError(
            "[validation] needs the records of all silos, which privet simulate and privet sweep "
            "have; on real silos [evaluation] measures the model, and what it tells is charged"
        )


def best_of(lines: Iterable[RoundRecord]) -> RoundRecord:
    """The line of the round whose model is chosen; ValueError for none."""
    return max(lines, key=worth)  # the first of equals


def worth(entry: RoundRecord) -> tuple[float, float]:
    """What a model's figures are compared by; larger is better."""
    metric = entry.headline.metric if entry.headline else ACCURACY
    return metric.worth(entry.figures.get(metric.name)), LOSS.worth(entry.loss)
