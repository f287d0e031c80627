"""What DP-SGD will do, decided before it starts: who is sampled, and where noise comes from.

Sampling is Poisson, with its rate and step count exact. Gaussian noise comes from the operating
system on a silo and from a named stream in a simulation. A share of records, such as accuracy, is
released from counts with the same noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from privet.errors import DataError, PrivacyError
from privet.privacy.accounting import dp_sgd_event, gaussian_event
from privet.privacy.dp_events import DpEvent
from privet.randomness import torch_generator


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


class NoiseSource(Protocol):
    """Independent normal numbers, never the same twice."""

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """A float32 tensor of `shape` with mean 0 and standard deviation `std`."""


class SeededNoise:
    """Reproducible noise for simulations: whoever knows the seed can take it off again.

    One sequence belongs to one (seed, silo, round); two sources over the same sequence repeat each
    other, which is what makes a simulation repeatable.
    """

    def __init__(self, sequence: np.random.SeedSequence) -> None:
        self._generator = torch_generator(sequence)

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """The next numbers of the stream, shape `shape`, float32."""
        # Bit-identical only for equal shapes: torch fills 16 numbers and more by another path.
        return torch.empty(*shape).normal_(0.0, std, generator=self._generator)


class SystemNoise:
    """Cryptographic noise for real silos.

    Every call draws a fresh 256-bit key from the operating system and expands it with AES in
    counter mode, so there is no state that a fork, a copy or a restart could repeat. Uniform
    numbers of 53 bits become normal ones by Box & Muller's transform in double precision, and each
    result is half the sum of four: that hides which floating-point values a single draw can take
    (Mironov 2012; Holohan & Braghin 2021, arXiv 2107.10138, section 5).
    """

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """Fresh numbers of `shape`, computed in float64 and rounded to float32 once."""
        count = math.prod(shape)
        total = torch.zeros(count, dtype=torch.float64)
        # Two passes of two numbers each: half the sum of four has the variance of one.
        for _ in range(2):
            radius, angle = _uniform(2 * count).view(2, count)
            radius.log1p_().mul_(-2).sqrt_()
            angle.mul_(2 * math.pi)
            total += radius * angle.cos() + radius * angle.sin()
        return total.mul_(std / 2).float().reshape(*shape)


def _uniform(count: int) -> Tensor:
    """`count` numbers -u, u uniform on the multiples of 2^-53 in [0, 1): log1p never sees -1.

    The sign serves the radius (log(1 - u)) and does no harm to the angle.
    """
    # A counter from zero is safe: the key is fresh at every call and never used again.
    encryptor = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(encryptor.update(bytes(8 * count)), dtype=np.uint64)
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * -(2.0**-53))


@dataclass(frozen=True)
class NoisyShare:
    """The mean of per-record values in [0, 1], from two sums with noise.

    Guarantee: `event()` under add-or-remove adjacency of one record. The sums of v and of 1 - v
    over the records move by v and 1 - v when a record comes or goes: an L2 distance of at most 1.
    `noise_multiplier` is the noise's standard deviation over that (Gaussian mechanism, Dwork & Roth
    2014, appendix A). The share is computed from the two noisy sums alone, so neither the number of
    records nor anything else about them is used besides.
    """

    noise_multiplier: float

    def event(self) -> DpEvent:
        """What one release costs."""
        return gaussian_event(self.noise_multiplier)

    def release(self, values: Tensor, noise: NoiseSource) -> float:
        """The noisy share of `values`, shape (n,), clipped into [0, 1]; 0.5 when noise is all.

        Values outside [0, 1] are clipped and those that are no numbers count as 0, whatever they
        are, so that the bound on a record's influence holds for every metric.
        """
        bounded = torch.nan_to_num(values.double(), nan=0.0).clamp(0.0, 1.0)
        yes, no = bounded.sum(), (1.0 - bounded).sum()
        yes, no = torch.stack([yes, no]) + noise.normal((2,), self.noise_multiplier).double()
        # Post-processing of the two noisy sums; few records or much noise can make both negative.
        total = float(yes + no)
        if total <= 0:
            return 0.5
        return min(1.0, max(0.0, float(yes) / total))
