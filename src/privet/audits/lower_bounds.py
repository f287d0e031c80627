"""Lower bounds on epsilon: what an attacker's right guesses refute.

From one run with many canaries (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846): each of m
canaries was in or out by a fair coin of its own. An auditor who sees what the mechanism released
guesses some of the coins. If the mechanism is (epsilon, delta)-differentially private, guesses can
be right only so often (Theorem 5.2); more right ones refute that epsilon.

From many runs, half of them with a canary (Jagielski, Ullman & Oprea 2020; Nasr et al. 2021 and
2023): false positives and false negatives of one attack, each bounded with confidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri
from scipy.stats import beta, binom

from privet.errors import PrivacyError
from privet.privacy.mechanisms.canaries import CanaryObservation, Floats, Mask

CONFIDENCE = 0.95
LARGEST = 30.0
"""No number of canaries that can be computed bounds epsilon higher."""

_SHARES = 0.05, 0.1, 0.25, 0.5
"""How many of the canaries are guessed: the few clear ones for strong noise, many for none. Which
is best depends on what ran, so all are tried, and pay for it (Bonferroni)."""


@dataclass(frozen=True)
class OneRunBound:
    """ "Epsilon is at least `epsilon`, with confidence `confidence`": never what it is."""

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    def refutes(self, claimed: float) -> bool:
        """Whether a claim of `claimed` at this delta is too low, at this confidence."""
        return self.epsilon > claimed


def one_run_bound(
    scores: Floats, inserted: Mask, *, delta: float, confidence: float = CONFIDENCE
) -> OneRunBound:
    """The bound from guesses "in" for the largest scores and "out" for the smallest, half and half.

    `scores` and `inserted` have shape (canaries,). Four numbers of guesses are tried, each at a
    quarter of the error, so that choosing the best costs no confidence.

    Raises PrivacyError without canaries and for a score that is no number.
    """
    if len(scores) == 0 or len(scores) != len(inserted) or np.isnan(scores).any():
        raise PrivacyError("a bound needs canaries with one score each that is a number")
    count = len(scores)
    order = np.argsort(-scores, kind="stable")
    bounds = []
    for share in _SHARES:
        half = max(1, round(share * count / 2))
        yes, no = order[:half], order[max(half, count - half) :]
        correct = int(inserted[yes].sum() + (~inserted[no]).sum())
        found = lower_bound(
            canaries=count,
            guesses=len(yes) + len(no),
            correct=correct,
            delta=delta,
            error=(1 - confidence) / len(_SHARES),  # Bonferroni: the best of four is reported
        )
        bounds.append(OneRunBound(found, delta, confidence, count, len(yes) + len(no), correct))
    return max(bounds, key=lambda bound: bound.epsilon)


def p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How probable `correct` or more right guesses are, at most, if (epsilon, delta) holds.

    Theorem 5.2 as the paper's appendix computes it: guesses of an epsilon-DP mechanism are right no
    more often than coins of probability 1 / (1 + exp(-epsilon)); delta adds 2 m delta times the
    largest mean of the i probabilities just below `correct`.

    Raises PrivacyError unless 0 <= correct <= guesses <= canaries, epsilon >= 0, 0 <= delta <= 1.
    """
    if not (0 <= correct <= guesses <= canaries and epsilon >= 0 and 0 <= delta <= 1):
        raise PrivacyError(
            f"no audit has {correct} of {guesses} guesses right over {canaries} canaries, "
            f"for epsilon = {epsilon}, delta = {delta}"
        )
    coin = 1 / (1 + np.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, coin))
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, coin))
    slack = float((below / np.arange(1, correct + 1)).max(initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * slack)


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """The largest epsilon that such guesses refute at `error` (to 1e-6); 0 for none."""

    def refuted(epsilon: float) -> bool:
        found = p_value(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
        )
        return found < error

    # `low` is refuted throughout, so that what is returned is never rounded upwards.
    low, high = 0.0, LARGEST
    if not refuted(low):
        return low
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


View = Literal["steps", "updates", "model"]
"""The observer: who sees every step inside a silo, who gets its updates round by round (a server),
or who gets what all rounds together have done to the model."""


@dataclass(frozen=True)
class Scored:
    """Each canary's evidence, and whether it really was in."""

    scores: Floats
    """Larger for canaries that look as if they took part, shape (canaries,)."""
    inserted: Mask


def score(observations: Sequence[CanaryObservation], *, view: View) -> Scored:
    """The log-likelihood ratio of every silo's every canary under the claimed mechanism.

    Optimal where the claim holds (Neyman & Pearson). Any score gives a valid bound, so that a
    mechanism other than the claimed makes it weaker or stronger, never wrong. "updates" and
    "model" suppose that an update is the plain sum of a round's steps (SGD without momentum);
    rounds whose noise or rate differs are told apart in "model" as well.
    """
    silos = dict.fromkeys(each.silo for each in observations)
    found = [_of_silo([s for s in observations if s.silo == silo], view) for silo in silos]
    inserted = [next(s.inserted for s in observations if s.silo == silo) for silo in silos]
    return Scored(np.concatenate(found), np.concatenate(inserted))


def _of_silo(observations: Sequence[CanaryObservation], view: View) -> Floats:
    ratios = [_log_likelihood_ratio(*each).sum(axis=0) for each in _sums(observations, view)]
    return np.sum(ratios, axis=0)  # type: ignore[no-any-return]


def _sums(
    observations: Sequence[CanaryObservation], view: View
) -> Iterator[tuple[Floats, int, float, float]]:
    """What the observer sees: sums (n, m), each of how many steps, rate and noise multiplier."""
    if view == "model":
        whole: dict[tuple[float, float], list[Floats]] = {}
        for each in observations:
            key = each.plan.sampling_rate, each.plan.noise_multiplier
            whole.setdefault(key, []).append(each.sums)
        for (rate, sigma), parts in whole.items():
            steps = np.concatenate(parts)
            yield steps.sum(axis=0, keepdims=True), len(steps), rate, sigma
        return
    for each in observations:
        rate, sigma = each.plan.sampling_rate, each.plan.noise_multiplier
        if view == "steps":
            yield each.sums, 1, rate, sigma
        else:
            yield each.sums.sum(axis=0, keepdims=True), len(each.sums), rate, sigma


def _log_likelihood_ratio(sums: Floats, steps: int, rate: float, sigma: float) -> Floats:
    """Of sums over `steps` steps, in clip norms: in, a binomial number of ones is added."""
    most = min(steps, math.ceil(steps * rate + 10 * math.sqrt(steps * rate * (1 - rate)) + 10))
    times = np.arange(most + 1)
    with np.errstate(divide="ignore"):
        prior = binom.logpmf(times, steps, rate)
    shifts = (sums[..., None] * times - np.square(times) / 2) / (steps * sigma**2)
    return np.asarray(logsumexp(prior + shifts, axis=-1))


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
