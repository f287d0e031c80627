"""Figures of predictions, in numpy, and the counts that pictures of them are drawn from.

They equal scikit-learn's on the same predictions. What is not defined, such as the AUC of records
of one class, is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CALIBRATION_BINS = 15
"""Of confidence, for the expected calibration error."""
SCORE_BINS = 100
"""Of a probability, for pictures."""
GRID = 24
"""Cells a side of predicted against true."""


@dataclass(frozen=True)
class ScoreCounts:
    """How often a score fell into each of equal bins from 0 to 1, by whether it was that class."""

    name: str
    of_class: list[int]
    of_others: list[int]


@dataclass(frozen=True)
class Confusion:
    """Counts by true class (row) and predicted class (column)."""

    classes: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class TrueAgainst:
    """Counts by true value (row) and predicted value (column), in equal cells of a range."""

    low: float
    high: float
    unit: str
    counts: list[list[int]]


def auc(scores: Floats, positive: Flags) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half."""
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return math.nan
    ranks = _mean_ranks(scores)
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))


def _mean_ranks(scores: Floats) -> Floats:
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[place]
    return ranks


def average_precision(scores: Floats, positive: Flags) -> float:
    """Precision, weighted by the gain in recall at each score from the highest down."""
    if not positive.any():
        return math.nan
    levels, place = np.unique(-scores, return_inverse=True)
    hits = np.bincount(place, weights=positive, minlength=len(levels))
    found, shown = np.cumsum(hits), np.cumsum(np.bincount(place, minlength=len(levels)))
    return float((hits * found / shown).sum() / positive.sum())


def confusion(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts (classes, classes) by truth and prediction."""
    known = (truth >= 0) & (truth < classes)
    places = np.bincount((truth * classes + predicted)[known], minlength=classes * classes)
    return places.reshape(classes, classes).astype(np.int64)


def by_class(counts: Ints) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class; 0 where there is nothing to divide by."""
    hits, said, there = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    return _share(hits, said), _share(hits, there), _share(2 * hits, said + there)


def _share(part: Ints, whole: Ints) -> Floats:
    found: Floats = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return found


def calibration_error(confidence: Floats, right: Flags) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, by their numbers."""
    places = _bins(confidence, CALIBRATION_BINS)
    gaps = np.bincount(places, weights=confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / max(len(confidence), 1))


def _bins(shares: Floats, bins: int) -> Ints:
    """The bin of each share; what is no number is in the first.

    Nothing may fail here: at a silo a failure would tell of the records that it hangs on.
    """
    places: Ints = np.clip(np.nan_to_num(shares) * bins, 0, bins - 1).astype(np.int64)
    return places


def score_counts(scores: Floats, positive: Flags, *, name: str, bins: int) -> ScoreCounts:
    """The scores in equal bins, by class."""
    places = _bins(scores, bins)
    found = [np.bincount(places[which], minlength=bins) for which in (positive, ~positive)]
    return ScoreCounts(name, found[0].tolist(), found[1].tolist())


def against(truth: Floats, predicted: Floats, *, unit: str) -> TrueAgainst:
    """True and predicted values in one range for both."""
    both = np.concatenate([truth, predicted])
    both = both[np.isfinite(both)]
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, GRID + 1)
    counts, _, _ = np.histogram2d(truth, predicted, bins=[edges, edges])
    return TrueAgainst(low, high, unit, counts.astype(int).tolist())


def regression(truth: Floats, predicted: Floats) -> dict[str, float]:
    """RMSE, MAE and R2."""
    errors = predicted - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    return {
        "rmse": float(np.sqrt((errors**2).mean())),
        "mae": float(np.abs(errors).mean()),
        "r2": 1 - float((errors**2).sum()) / spread if spread else math.nan,
    }


def concordance(risk: Floats, until: Ints, event: Flags) -> float:
    """Harrell's C: of pairs whose order is known, how often who had the event first scored higher.

    Known are pairs of an event and somebody who is followed into a later interval; ties count half.
    """
    right = pairs = 0.0
    for interval in np.unique(until[event]):
        early = np.sort(risk[event & (until == interval)])
        later = risk[until > interval]
        below, upto = np.searchsorted(early, later), np.searchsorted(early, later, side="right")
        # For each of the later ones, how many of the early ones score above it, and as high.
        right += float((len(early) - upto).sum() + (upto - below).sum() / 2)
        pairs += float(len(early) * len(later))
    return right / pairs if pairs else math.nan


def brier(survival: Floats, until: Ints, event: Flags) -> float:
    """Mean over interval ends of the squared distance of survival (n, T) from what was seen.

    Who left before is weighted by inverse probability of censoring (Graf et al. 1999), by
    Kaplan-Meier on these records.
    """
    staying = _staying(until, event, survival.shape[1])
    scores = []
    for end in range(survival.shape[1]):
        gone, there = event & (until <= end), until > end
        weights = np.where(gone, 1 / staying[np.minimum(until, end)], 0.0)
        weights += there / staying[end]
        scores.append(float((weights * (there - survival[:, end]) ** 2).mean()))
    return float(np.mean(scores))


def _staying(until: Ints, event: Flags, intervals: int) -> Floats:
    """Probability (T,) of not having left by each interval; who leaves does so at its start."""
    found = np.ones(intervals)
    for interval in range(intervals):
        risk = (until >= interval).sum()
        left = ((until == interval) & ~event).sum()
        found[interval] = (found[interval - 1] if interval else 1.0) * (
            1 - left / risk if risk else 1.0
        )
    return np.maximum(found, 1e-12)


def labels(names: Sequence[str], figure: str, values: Floats) -> dict[str, float]:
    """A figure of each class, by name."""
    return {f"{figure}_{name}": float(each) for name, each in zip(names, values, strict=True)}
