"""What DP-SGD will do, decided before it starts; and how a share of records is released.

Sampling is Poisson, with its rate and step count exact. A share of records, such as accuracy, is
released from two sums with noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.errors import DataError, PrivacyError
from privet.privacy.accounting import dp_sgd_event, gaussian_event
from privet.privacy.dp_events import DpEvent
from privet.privacy.mechanisms.noise import NoiseSource


def sampling_rate(n_records: int, batch_size: int) -> float:
    """The probability min(1, batch_size / n_records) with which each record joins each step.

    The expected batch is then `batch_size` exactly (or all records when there are fewer). Raises
    DataError without records and PrivacyError for a batch size below 1.
    """
    _check(n_records, batch_size)
    return min(1.0, batch_size / n_records)


def local_steps(n_records: int, batch_size: int, epochs: int) -> int:
    """ceil(n_records / batch_size) * epochs, in integers: no rounding of 1 / rate loses a step."""
    _check(n_records, batch_size)
    if epochs < 1:
        raise PrivacyError(f"training.epochs = {epochs} must be at least 1")
    return -(-n_records // batch_size) * epochs


def poisson_batches(
    n_records: int, *, rate: float, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """`steps` sorted index arrays; every record joins each by its own coin of probability `rate`.

    Batches differ in size and may be empty. An empty one is a step like any other: leaving it out
    would make what is released depend on who took part.
    """
    for _ in range(steps):
        yield np.flatnonzero(rng.random(n_records) < rate)


def _check(n_records: int, batch_size: int) -> None:
    if n_records < 1:
        raise DataError(f"a silo with {n_records} records has nothing to train on")
    if batch_size < 1:
        raise PrivacyError(f"training.batch_size = {batch_size} must be at least 1")


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
    batch_size: the divisor: the expected number of records in a step, sampling_rate * n, or with
        a rate of 1 any number from n on.

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
        fits = math.isclose(expected, self.batch_size, rel_tol=1e-6)
        # All records in every step: where their number is secret, what divides must not be it.
        if not fits and not (self.sampling_rate == 1 and n_records <= self.batch_size):
            raise PrivacyError(
                f"the plan divides by {self.batch_size:g}, but a rate of {self.sampling_rate:g} "
                f"over {n_records} records gives batches of {expected:g}"
            )
        examples = n_records + canaries
        return poisson_batches(examples, rate=self.sampling_rate, steps=self.steps, rng=rng)


_ONE = 2.0**20
"""How many steps of the grid of counts and sums with noise make up 1."""
_MOST_NOISE = 2.0**28
"""More of it would not be exact on that grid."""


@dataclass(frozen=True)
class NoisyCounts:
    """How many records are in each of some cells, with noise on every count.

    Guarantee: `event()` under add-or-remove adjacency of one record. A record is in one cell at
    most, so its coming or going moves the counts by an L2 distance of at most 1. Counts and noise
    are integers of a grid. `noise_multiplier` is the noise's standard deviation.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        _demand_exact(self.noise_multiplier)

    def event(self) -> DpEvent:
        """What one release costs."""
        return gaussian_event(self.noise_multiplier)

    def release(self, cells: Tensor, size: int, noise: NoiseSource) -> list[float]:
        """The noisy counts (size,) of `cells`, int64 (n,); others than 0 to size - 1 are left
        out."""
        known = cells[(cells >= 0) & (cells < size)]
        counts = torch.bincount(known, minlength=size).double().mul_(_ONE)
        added = noise.normal((size,), self.noise_multiplier).double().mul_(_ONE).round_()
        return [float(each) for each in (counts + added) / _ONE]


def _demand_exact(noise_multiplier: float) -> None:
    if noise_multiplier > _MOST_NOISE:
        raise PrivacyError(f"noise_multiplier = {noise_multiplier:g} must be at most 2^28")


@dataclass(frozen=True)
class NoisyShare:
    """The mean of per-record values in [0, 1], from two sums with noise.

    Guarantee: `event()` under add-or-remove adjacency of one record. The sums of v and of 1 - v
    over the records move by v and 1 - v when a record comes or goes: an L2 distance of at most 1.
    Values and noise are integers of a grid, so that sums are exact and low bits tell nothing.
    `noise_multiplier` is the noise's standard deviation over that (Gaussian mechanism, Dwork & Roth
    2014, appendix A). The share is computed from the two noisy sums alone, so neither the number of
    records nor anything else about them is used besides.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        _demand_exact(self.noise_multiplier)

    def event(self) -> DpEvent:
        """What one release costs."""
        return gaussian_event(self.noise_multiplier)

    def release(self, values: Tensor, noise: NoiseSource) -> float:
        """The noisy share of `values`, shape (n,), clipped into [0, 1]; 0.5 when noise is all.

        Values outside [0, 1] are clipped and those that are no numbers count as 0, whatever they
        are, so that the bound on a record's influence holds for every metric.
        """
        bounded = torch.nan_to_num(values.double(), nan=0.0).clamp(0.0, 1.0)
        # Each value is rounded, not the sum: a record then moves it by no more than its own value.
        steps = bounded.mul(_ONE).round_()
        sums = torch.stack([steps.sum(), (_ONE - steps).sum()])
        yes, no = sums + noise.normal((2,), self.noise_multiplier).double().mul_(_ONE).round_()
        # Post-processing of the two noisy sums; few records or much noise can make both negative.
        total = float(yes + no)
        if total <= 0:
            return 0.5
        return min(1.0, max(0.0, float(yes) / total))
