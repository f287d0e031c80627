"""Where Gaussian noise comes from: the operating system on a silo, a named stream in simulation."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

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
