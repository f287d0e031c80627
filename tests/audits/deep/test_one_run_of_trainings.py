"""The bound of one run, on canaries that the training engine itself carried: a hundred times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from audits.mechanism.planted import planted
from privet.audits.lower_bounds import one_run_bound, score
from privet.privacy.accounting import noise_multiplier_for
from privet.privacy.mechanisms import Canaries, DpSgd, ExampleLoss, SeededNoise
from privet.privacy.mechanisms.batched import OptimizerSettings, Row, chain_of, train_rows
from privet.privacy.mechanisms.canaries import CanaryObservation
from privet.randomness import numpy_generator, stream

DELTA, RATE, STEPS, CANARIES, RECORDS = 1e-5, 0.1, 60, 300, 20


def audits(epsilon: float, count: int) -> list[CanaryObservation]:
    """Of `count` small trainings with the noise that a claim of `epsilon` needs."""
    sigma = noise_multiplier_for(epsilon=epsilon, delta=DELTA, sampling_rate=RATE, steps=STEPS)
    plan = DpSgd(
        noise_multiplier=sigma,
        clip=1.0,
        sampling_rate=RATE,
        steps=STEPS,
        batch_size=RATE * RECORDS,
    )
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(RECORDS, 3, generator=generator), torch.arange(RECORDS) % 2
    rows, drawn = [], []
    for seed in range(count):
        inserted = Canaries(numpy_generator(stream(seed, "coins")).random(CANARIES) < 0.5)
        draws = numpy_generator(stream(seed, "batches"))
        batches = list(plan.batches(RECORDS, draws, canaries=len(inserted.coordinates)))
        noise = SeededNoise(stream(seed, "noise"))
        weights = np.zeros(8, dtype=np.float32)
        rows.append(Row(weights, inputs, targets, batches, 0.1, plan, noise, canaries=inserted))
        drawn.append(inserted)
    chain = chain_of(nn.Linear(3, 2), inputs)
    outcomes = train_rows(chain, rows, ExampleLoss(F.cross_entropy), optimizer=OptimizerSettings())
    traces = [outcome.canaries for outcome in outcomes]
    return [
        CanaryObservation("silo", 1, plan, canaries.inserted, trace.sampled, trace.gradients)
        for canaries, trace in zip(drawn, traces, strict=True)
        if trace is not None
    ]


def bounds(epsilon: float, count: int) -> list[float]:
    scored = [score([sighting], view="steps") for sighting in audits(epsilon, count)]
    return [one_run_bound(each.scores, each.inserted, delta=DELTA).epsilon for each in scored]


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 2.0, 4.0, 8.0])
def test_of_a_hundred_right_trainings_none_is_bounded_above_its_claim(epsilon: float) -> None:
    found = bounds(epsilon, 100)
    assert len(found) == 100
    above = sum(bound > epsilon for bound in found)
    assert above <= stats.binom.isf(1e-3, 100, 0.05)
    assert above == 0  # the bound is far from tight


def test_trainings_without_noise_are_all_found_out() -> None:
    with planted("no noise"):
        assert min(bounds(2.0, 10)) > 2.0
