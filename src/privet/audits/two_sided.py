"""Lower bounds on epsilon from many runs, with the canary and without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import beta

from privet.errors import PrivacyError
from privet.privacy.mechanisms.canaries import Floats

CONFIDENCE = 0.95
GAUSSIAN = "the attack's errors trade off as those of a Gaussian mechanism do"


@dataclass(frozen=True)
class Errors:
    """How often an attack with a threshold fixed beforehand was wrong."""

    false_positives: int
    out: int
    """Runs without the canary."""
    false_negatives: int
    in_: int
    """Runs with it."""

    def upper(self, confidence: float) -> tuple[float, float]:
        """Bounds on both error rates that hold together (Clopper & Pearson 1934)."""
        return (
            float(_upper(np.array(self.false_positives), self.out, confidence)),
            float(_upper(np.array(self.false_negatives), self.in_, confidence)),
        )


@dataclass(frozen=True)
class TwoSidedBound:
    """ "Epsilon is at least `epsilon`, with confidence `confidence`", if `assumes` holds."""

    epsilon: float
    delta: float
    confidence: float
    errors: Errors
    assumes: str | None = None

    def refutes(self, claimed: float) -> bool:
        """Whether a claim of `claimed` at this delta is too low, at this confidence."""
        return self.epsilon > claimed


def clopper_pearson_bound(
    errors: Errors, *, delta: float, confidence: float = CONFIDENCE
) -> TwoSidedBound:
    """What (epsilon, delta) leaves possible (Kairouz, Oh & Viswanath 2015; Nasr et al. 2021).

    1 - FNR <= exp(epsilon) FPR + delta, and the same with the errors swapped.
    """
    found = float(_log_ratio(*map(np.array, errors.upper(confidence)), delta=delta))
    return TwoSidedBound(found, delta, confidence, errors)


def gaussian_bound(
    errors: Errors, *, delta: float, confidence: float = CONFIDENCE
) -> TwoSidedBound:
    """The epsilon of the Gaussian mechanism that such errors need (Nasr et al. 2023, 2302.07956).

    mu >= z(1 - FPR) - z(FNR) for mu-Gaussian DP (Dong, Roth & Su 2022). It is far tighter than
    `clopper_pearson_bound` and holds only as far as its assumption does.
    """
    mu = float(_mu(*map(np.array, errors.upper(confidence))))
    return TwoSidedBound(gaussian_epsilon(mu, delta), delta, confidence, errors, GAUSSIAN)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of mu-Gaussian DP (Balle & Wang 2018, Theorem 8); 0 for mu <= 0."""

    def excess(epsilon: float) -> float:
        second = math.exp(min(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)), 0.0))
        return float(ndtr(-epsilon / mu + mu / 2)) - second - delta

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * mu / 2 + mu * 40))


@dataclass(frozen=True)
class Threshold:
    """Scores above `at` are taken for runs with the canary. `rank` compares thresholds."""

    at: float
    rank: tuple[float, float]
    """What it bounds on the runs that chose it; among equals, minus its share of errors."""


def best_threshold(inside: Floats, outside: Floats, *, assumes: str | None = None) -> Threshold:
    """The threshold with the largest bound (`gaussian_bound` if `assumes` is GAUSSIAN).

    Its errors on the same runs bound nothing; count them on others. Raises PrivacyError without a
    run on either side and for a score that is no number.
    """
    _check_numbers(inside, outside)
    a, b = len(inside), len(outside)
    if min(a, b) < 1:
        raise PrivacyError("an attack needs at least two runs with the canary and two without")
    thresholds = np.unique(np.concatenate([inside, outside]))
    positives = b - np.searchsorted(np.sort(outside), thresholds, side="right")
    negatives = np.searchsorted(np.sort(inside), thresholds, side="right")
    rates = _upper(positives, b, CONFIDENCE), _upper(negatives, a, CONFIDENCE)
    found = _mu(*rates) if assumes else _log_ratio(*rates, delta=0.0)
    # Of thresholds that bound nothing, the one that is wrong least often.
    right = -(positives / b + negatives / a)
    best = np.lexsort([right, found])[-1]
    return Threshold(float(thresholds[best]), (float(found[best]), float(right[best])))


def errors_at(threshold: float, inside: Floats, outside: Floats) -> Errors:
    """The errors of a threshold that these runs did not choose; PrivacyError as above."""
    _check_numbers(inside, outside)
    return Errors(
        false_positives=int((outside > threshold).sum()),
        out=len(outside),
        false_negatives=int((inside <= threshold).sum()),
        in_=len(inside),
    )


def _check_numbers(*scores: Floats) -> None:
    if any(np.isnan(each).any() for each in scores):
        raise PrivacyError("an attack needs scores that are numbers")


def _log_ratio(false_positive: Floats, false_negative: Floats, *, delta: float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.log((1 - false_negative - delta) / false_positive)
        other = np.log((1 - false_positive - delta) / false_negative)
    return np.asarray(np.nan_to_num(np.fmax(one, other), nan=0.0, neginf=0.0).clip(0.0))


def _mu(false_positive: Floats, false_negative: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num(ndtri(1 - false_positive) - ndtri(false_negative)))


def _upper(counts: NDArray[np.int64], total: int, confidence: float) -> Floats:
    """Bounds on the probabilities that gave `counts` of `total`, each at half of the error."""
    with np.errstate(invalid="ignore"):
        found = beta.isf((1 - confidence) / 2, counts + 1, total - counts)
    return np.where(counts == total, 1.0, found)


def roc(inside: Floats, outside: Floats) -> tuple[Floats, Floats]:
    """False-positive and true-positive rates at every threshold, both rising from 0 to 1."""
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    false = 1 - np.searchsorted(np.sort(outside), thresholds, side="left") / len(outside)
    true = 1 - np.searchsorted(np.sort(inside), thresholds, side="left") / len(inside)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])
