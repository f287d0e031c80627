"""Where Gaussian noise comes from: the operating system on a silo, a named stream in simulation.

A share of records, such as accuracy, released from counts with Gaussian noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from privet.privacy.accounting import gaussian_event
from privet.privacy.dp_events import DpEvent
from privet.randomness import torch_generator


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
        total = float(yes + no)
        if total <= 0:
            return 0.5
        return min(1.0, max(0.0, float(yes) / total))
