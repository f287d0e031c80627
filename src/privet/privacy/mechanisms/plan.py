"""What DP-SGD will do, decided before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivacyError
from privet.privacy.accounting import dp_sgd_event
from privet.privacy.dp_events import DpEvent
from privet.privacy.mechanisms.sampling import local_steps, poisson_batches, sampling_rate


@dataclass(frozen=True)
class DpSgd:
    """DP-SGD in one silo for one round.

    Guarantee of what it describes: `event()` under add-or-remove adjacency of one record, with the
    number of records taken as public (it enters the rate and the divisor). Clip and noise come from
    here alone, so the noise always fits the clip.

    noise_multiplier: standard deviation of the noise over the clip norm; 0 gives no privacy.
    clip: largest L2 norm of one record's gradient.
    sampling_rate: probability with which each record joins each step, in (0, 1].
    steps: number of optimizer steps; more are refused, fewer are fine.
    batch_size: expected number of records in a step, sampling_rate * n; the divisor.

    Raises PrivacyError for values out of range.
    """

    noise_multiplier: float
    clip: float
    sampling_rate: float
    steps: int
    batch_size: float

    def __post_init__(self) -> None:
        self.event()  # checks the noise multiplier, the sampling rate and the steps
        for name, value in (("clip", self.clip), ("batch_size", self.batch_size)):
            if not (math.isfinite(value) and value > 0):
                raise PrivacyError(f"{name} = {value} must be finite and above 0")

    @classmethod
    def over(
        cls, n_records: int, *, batch_size: int, epochs: int, noise_multiplier: float, clip: float
    ) -> Self:
        """The plan of `epochs` passes over `n_records`; the batch is at most all of them."""
        return cls(
            noise_multiplier=noise_multiplier,
            clip=clip,
            sampling_rate=sampling_rate(n_records, batch_size),
            steps=local_steps(n_records, batch_size, epochs),
            batch_size=min(batch_size, n_records),
        )

    def event(self, steps: int | None = None) -> DpEvent:
        """The event of `steps` steps (those that ran), or of all that are planned."""
        return dp_sgd_event(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps if steps is None else steps,
        )

    def batches(
        self, n_records: int, rng: np.random.Generator, *, canaries: int = 0
    ) -> Iterator[NDArray[np.int64]]:
        """`steps` Poisson samples of the indices of `n_records`; some may be empty.

        `canaries` more are sampled with them, numbered from `n_records` on.
        Raises PrivacyError when the plan was made for another number of records.
        """
        expected = self.sampling_rate * n_records
        if not math.isclose(expected, self.batch_size, rel_tol=1e-6):
            raise PrivacyError(
                f"the plan divides by {self.batch_size:g}, but a rate of {self.sampling_rate:g} "
                f"over {n_records} records gives batches of {expected:g}"
            )
        examples = n_records + canaries
        return poisson_batches(examples, rate=self.sampling_rate, steps=self.steps, rng=rng)
