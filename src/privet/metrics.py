"""What a figure of a model is: its name, which way is better, and its unit.

A task says so of its own in `declared_metrics`, the headline first:

    declared_metrics = (Metric("rmse", higher_is_better=False, unit="mg/dl"), Metric("r2"))

Of a metric that nobody declared only the name is known: the errors in `_LOWER` are better when they
are smaller, everything else when it is larger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from privet.errors import ExperimentError

_LOWER = frozenset({"loss", "mae", "mse", "rmse", "brier", "ece", "deviance", "error"})
_SHARES = frozenset(
    {"accuracy", "auc", "average_precision", "balanced_accuracy", "brier", "c_index", "ece", "f1"}
)
_LABELS = {
    "auc": "AUC",
    "brier": "Brier score",
    "c_index": "C-index",
    "ece": "calibration error",
    "f1": "F1",
    "mae": "MAE",
    "mse": "MSE",
    "r2": "R²",
    "rmse": "RMSE",
}


@dataclass(frozen=True)
class Metric:
    """One figure. `unit`: "mg/dl" or the like; empty for a share or a number without one."""

    name: str
    higher_is_better: bool = True
    unit: str = ""

    @property
    def label(self) -> str:
        """Within a sentence."""
        return _LABELS.get(self.name) or self.name.replace("_", " ")

    @property
    def title(self) -> str:
        """At the beginning of one, or as a heading."""
        return f"{self.label[:1].upper()}{self.label[1:]}"

    @property
    def titled_unit(self) -> str:
        """The same with the unit in brackets."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float, *, digits: int = 4) -> str:
        """The value to so many decimals, or digits where it is large, and its unit."""
        return f"{self.number(value, digits=digits)}{f' {self.unit}' if self.unit else ''}"

    def number(self, value: float, *, digits: int = 4) -> str:
        """Without the unit; of what is not a share, digits of a small value too.

        >>> Metric("rmse", unit="dollars").text(12345.678)
        '12345.7 dollars'
        >>> Metric("rmse").number(0.00061234), Metric("accuracy").number(0.00061234)
        ('0.000612', '0.0006')
        """
        if not self.share and 0 < abs(value) < 10 ** (2 - digits):
            return f"{value:.{digits - 1}g}"
        whole = len(f"{abs(value):.0f}") if math.isfinite(value) else 1
        return f"{value:.{max(1, digits + 1 - whole) if whole > 1 else digits}f}"

    def change(self, value: float) -> str:
        """A difference, with its sign."""
        return f"{'+' if value >= 0 else ''}{self.number(value)}"

    @property
    def filename(self) -> str:
        """Of a picture of it, without its ending."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name) or "metric"

    @property
    def share(self) -> bool:
        """Whether it is known to lie between 0 and 1."""
        return self.name in _SHARES

    def rounded(self, value: float) -> float:
        """To as many digits as a person can say."""
        digits = 3 if self.share else 3 - math.ceil(math.log10(abs(value) or 1))
        return round(value, digits)

    def worth(self, value: float | None) -> float:
        """What values are compared by, larger is better; none and NaN are the worst."""
        if value is None or not math.isfinite(value):
            return -math.inf
        return value if self.higher_is_better else -value

    def reached(self, value: float | None, target: float) -> bool:
        """Whether a value is as good as the target or better."""
        return value is not None and self.worth(value) >= self.worth(target)


ACCURACY = Metric("accuracy")
LOSS = Metric("loss", higher_is_better=False)


def metric_named(name: str, declared: Iterable[Metric] = ()) -> Metric:
    """The declared metric of that name, or what its name says."""
    found = next((each for each in declared if each.name == name), None)
    return found or Metric(name, higher_is_better=name not in _LOWER)


def names_in_order(names: Iterable[str], first: Metric) -> list[str]:
    """The headline, then the others by name, and the loss last."""
    return sorted(set(names), key=lambda name: (name != first.name, name == "loss", name))


def declared_by(task: object) -> tuple[Metric, ...]:
    """What a task says of its figures, the headline first; usually nothing.

    ExperimentError for what is no `Metric`, or a name twice.
    """
    found = tuple(getattr(task, "declared_metrics", ()))
    for each in found:
        if not isinstance(each, Metric):
            raise ExperimentError(f"the task's declared_metrics: {each!r} is no privet.Metric")
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ExperimentError(f"the task's declared_metrics: a name is there twice in {names}")
    return found
