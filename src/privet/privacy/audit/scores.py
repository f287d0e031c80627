"""How likely it is that a canary took part, from what an observer sees of the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import logsumexp
from scipy.stats import binom

from privet.privacy.audit.sightings import Floats, Mask, Sighting

View = Literal["steps", "updates", "model"]
"""Who looks: one who sees every step inside the silo, one who gets its update of every round (the
server), or one who gets what all rounds together have done to the model."""


@dataclass(frozen=True)
class Scored:
    """Each canary's evidence, and whether it really was in."""

    scores: Floats
    """Larger for canaries that look as if they took part, shape (canaries,)."""
    inserted: Mask


def score(sightings: Sequence[Sighting], *, view: View) -> Scored:
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


def _of_silo(sightings: Sequence[Sighting], view: View) -> Floats:
    ratios = [_log_ratio(*each).sum(axis=0) for each in _sums(sightings, view)]
    return np.sum(ratios, axis=0)  # type: ignore[no-any-return]


def _sums(sightings: Sequence[Sighting], view: View) -> Iterator[tuple[Floats, int, float, float]]:
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
