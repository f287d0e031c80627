"""A membership attack on the model alone: many trainings, half of them with one more record.

The mechanism runs as a whole, on real records, many models at once (`mechanisms.together`); the
attacker sees the last model and nothing else, and asks how small the canary's loss is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from privet.privacy.audit.sightings import Floats, Mask
from privet.privacy.audit.two_sided import (
    CONFIDENCE,
    GAUSSIAN,
    TwoSidedBound,
    clopper_pearson_bound,
    errors_at_best,
    gaussian_bound,
)
from privet.privacy.mechanisms import DpSgd, SeededNoise
from privet.privacy.mechanisms.together import Descent, Row, chain_of, train_rows
from privet.privacy.mechanisms.together.chain import Loss
from privet.randomness import numpy_generator, stream
from privet.vectors import FlatModel, Vector

_AT_ONCE = 50


@dataclass(frozen=True)
class Attack:
    """What is trained, and the record whose presence is to be told."""

    model: nn.Module
    """A chain that `together` can train; its weights are those to start from."""
    inputs: Tensor
    targets: Tensor
    """The n records of every training, and behind them the canary."""
    plan: DpSgd
    """Over n records; the canary is sampled as they are."""
    loss: Loss
    lr: float


@dataclass(frozen=True)
class Membership:
    """What came of the trainings, and what it says about epsilon."""

    scores: Floats
    """Minus the canary's loss at the end of each run, shape (runs,)."""
    inserted: Mask
    """Whether the canary was among a run's records."""
    bounds: tuple[TwoSidedBound, ...]
    """Of Clopper & Pearson, which assumes nothing, and under the Gaussian assumption."""


def attack_membership(
    attack: Attack,
    *,
    runs: int,
    seed: int,
    delta: float,
    confidence: float = CONFIDENCE,
    watch: Callable[[int], None] = lambda _done: None,
) -> Membership:
    """Train `runs` models and bound epsilon by how well the canary's loss tells them apart.

    Every run has its own coin for the canary, its own batches and its own noise. A threshold is
    chosen on half of the runs and counted on the other. `watch` hears how many runs are done.
    Raises NotTogether for a model that is no chain, PrivacyError for too few runs.
    """
    inserted = numpy_generator(stream(seed, "deep", "coins")).random(runs) < 0.5
    chain = chain_of(attack.model, attack.inputs[:2])
    flat = FlatModel(copy.deepcopy(attack.model).eval())
    start = flat.vector()
    scores: list[float] = []
    for first in range(0, runs, _AT_ONCE):
        chosen = range(first, min(runs, first + _AT_ONCE))
        rows = [_row(attack, start, run, seed=seed, inserted=bool(inserted[run])) for run in chosen]
        for outcome in train_rows(chain, rows, attack.loss, descent=Descent()):
            flat.load(start + outcome.update)
            scores.append(_score(flat.module, attack))
        watch(len(scores))
    return judged(np.array(scores), inserted, delta=delta, confidence=confidence)


def judged(scores: Floats, inserted: Mask, *, delta: float, confidence: float) -> Membership:
    """The bounds that such scores of runs with and without the canary give."""
    inside, outside = scores[inserted], scores[~inserted]
    pure, gaussian = (errors_at_best(inside, outside, assumes=each) for each in (None, GAUSSIAN))
    bounds = (
        clopper_pearson_bound(pure, delta=delta, confidence=confidence),
        gaussian_bound(gaussian, delta=delta, confidence=confidence),
    )
    return Membership(scores, inserted, bounds)


def _row(attack: Attack, weights: Vector, run: int, *, seed: int, inserted: bool) -> Row:
    """The canary is the last record, and in no batch of a run without it."""
    draws = numpy_generator(stream(seed, "deep", "batches", run))
    others = len(attack.inputs) - 1
    batches = list(attack.plan.batches(others, draws, canaries=int(inserted)))
    noise = SeededNoise(stream(seed, "deep", "noise", run))
    return Row(weights, attack.inputs, attack.targets, batches, attack.lr, attack.plan, noise)


def _score(model: nn.Module, attack: Attack) -> float:
    with torch.no_grad():
        return -float(attack.loss(model(attack.inputs[-1:]), attack.targets[-1:]))
