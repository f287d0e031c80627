"""A lower bound on epsilon from one run (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846).

Each of m canaries was in or out by a fair coin of its own. An auditor who sees what the mechanism
released guesses some of the coins. If the mechanism is (epsilon, delta)-differentially private,
guesses can be right only so often (Theorem 5.2); more right ones refute that epsilon.

How likely it is that a canary took part, from what an observer sees of the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import logsumexp
from scipy.stats import binom

from privet.errors import PrivacyError
from privet.privacy.mechanisms.canaries import CanaryObservation, Floats, Mask

CONFIDENCE = 0.95
LARGEST = 30.0
"""No number of canaries that can be computed bounds epsilon higher."""

_SHARES = 0.05, 0.1, 0.25, 0.5
"""How many of the canaries are guessed: few clear ones for strong noise, many for none."""


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
            error=(1 - confidence) / len(_SHARES),
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

    low, high = 0.0, LARGEST
    if not refuted(low):
        return low
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


View = Literal["steps", "updates", "model"]
"""Who looks: one who sees every step inside the silo, one who gets its update of every round (the
server), or one who gets what all rounds together have done to the model."""


@dataclass(frozen=True)
class Scored:
    """Each canary's evidence, and whether it really was in."""

    scores: Floats
    """Larger for canaries that look as if they took part, shape (canaries,)."""
    inserted: Mask


def score(sightings: Sequence[CanaryObservation], *, view: View) -> Scored:
    """The log-likelihood ratio of every silo's every canary under the claimed mechanism.

    Optimal where the claim holds (Neyman & Pearson). Any score gives a valid bound, so that a
    mechanism other than the claimed makes it weaker or stronger, never wrong. "updates" and
    "model" suppose that an update is the plain sum of a round's steps (SGD without momentum);
    rounds whose noise or rate differs are told apart in "model" as well.
    """
    silos = dict.fromkeys(each.silo for each in sightings)
    found = [_of_silo([s for s in sightings if s.silo == silo], view) for silo in silos]
    inserted = [next(s.inserted for s in sightings if s.silo == silo) for silo in silos]
    return Scored(np.concatenate(found), np.concatenate(inserted))


def _of_silo(sightings: Sequence[CanaryObservation], view: View) -> Floats:
    ratios = [_log_ratio(*each).sum(axis=0) for each in _sums(sightings, view)]
    return np.sum(ratios, axis=0)  # type: ignore[no-any-return]


def _sums(
    sightings: Sequence[CanaryObservation], view: View
) -> Iterator[tuple[Floats, int, float, float]]:
    """What the observer sees: sums (n, m), each of how many steps, rate and noise multiplier."""
    if view == "model":
        whole: dict[tuple[float, float], list[Floats]] = {}
        for each in sightings:
            key = each.plan.sampling_rate, each.plan.noise_multiplier
            whole.setdefault(key, []).append(each.sums)
        for (rate, sigma), parts in whole.items():
            steps = np.concatenate(parts)
            yield steps.sum(axis=0, keepdims=True), len(steps), rate, sigma
        return
    for each in sightings:
        rate, sigma = each.plan.sampling_rate, each.plan.noise_multiplier
        if view == "steps":
            yield each.sums, 1, rate, sigma
        else:
            yield each.sums.sum(axis=0, keepdims=True), len(each.sums), rate, sigma


def _log_ratio(sums: Floats, steps: int, rate: float, sigma: float) -> Floats:
    """Of sums over `steps` steps, in clip norms: in, a binomial number of ones is added."""
    most = min(steps, math.ceil(steps * rate + 10 * math.sqrt(steps * rate * (1 - rate)) + 10))
    times = np.arange(most + 1)
    with np.errstate(divide="ignore"):
        prior = binom.logpmf(times, steps, rate)
    shifts = (sums[..., None] * times - np.square(times) / 2) / (steps * sigma**2)
    return np.asarray(logsumexp(prior + shifts, axis=-1))
