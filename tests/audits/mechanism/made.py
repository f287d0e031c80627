"""Sightings drawn from the claimed law itself, or from one that differs in a number."""

from __future__ import annotations

import numpy as np

from privet.privacy.mechanisms import DpSgd
from privet.privacy.mechanisms.canaries import CanaryObservation


def sightings(
    seed: int,
    *,
    silos: int = 4,
    rounds: int = 5,
    steps: int = 12,
    coordinates: int = 60,
    rate: float = 1 / 12,
    sigma: float = 1.0,
    real_sigma: float | None = None,
    real_rate: float | None = None,
) -> list[CanaryObservation]:
    """Of a mechanism that claims `rate` and `sigma`, whatever it really does."""
    rng = np.random.default_rng(seed)
    plan = DpSgd(noise_multiplier=sigma, clip=2.0, sampling_rate=rate, steps=steps, batch_size=50.0)
    made = []
    for silo in range(silos):
        inserted = rng.random(coordinates) < 0.5
        for round_ in range(1, rounds + 1):
            coins = rng.random((steps, coordinates))
            sampled = inserted & (coins < (rate if real_rate is None else real_rate))
            noise = rng.standard_normal((steps, coordinates))
            sums = sampled + (sigma if real_sigma is None else real_sigma) * noise
            gradients = (sums * plan.clip / plan.batch_size).astype(np.float32)
            made.append(
                CanaryObservation(f"silo-{silo}", round_, plan, inserted, sampled, gradients)
            )
    return made
