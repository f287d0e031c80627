"""What was seen of a mechanism: its noisy gradients on coordinates whose law is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privet.privacy.mechanisms.plan import DpSgd

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sighting:
    """One silo's round on its canary coordinates (see `privacy.mechanisms.canaries`)."""

    silo: str
    round: int
    plan: DpSgd
    """The mechanism as claimed."""
    inserted: Mask
    """Which coordinates a canary record moves, shape (m,)."""
    sampled: Mask
    """Where a canary was in a step's batch, shape (steps, m)."""
    gradients: NDArray[np.float32]
    """What the optimizer stepped on, shape (steps, m)."""

    @cached_property
    def sums(self) -> Floats:
        """The noisy sums in units of the clip norm, shape (steps, m).

        As claimed: independent; normal with mean 0 and standard deviation `plan.noise_multiplier`;
        where a record is inserted, plus 1 with probability `plan.sampling_rate`.
        """
        return self.gradients.astype(np.float64) * (self.plan.batch_size / self.plan.clip)
