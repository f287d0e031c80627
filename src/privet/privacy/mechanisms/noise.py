"""Gaussian noise in double precision: where its random bits come from, and how they become normal.

A silo's come from the operating system, a simulation's from a named stream; all else is the same.

The Gaussian is cut into rectangles as by the ziggurat method (Marsaglia & Tsang 2000), but here
they are 1,024 of one area that lie wholly under its curve: 54 bits of a word choose a place in the
one that 10 bits choose, for whole arrays, and nothing is rejected. Two of a thousand numbers come
from beside the rectangles instead, by rejection and, beyond 4.03 deviations, by the inverse of the
distribution function of 104 bits, which ends at 12.5 (beyond lie 1e-35 of a Gaussian).

Rounded to integers, noise with a standard deviation of k of them takes each one with the Gaussian's
probability but for a factor within 1 +- k * 2^-49, which comes from how many of the 2^54 places
fall on it. These factors alternate from one integer to the next: the distribution functions differ
by less than 1e-12. In a step over d weights the privacy loss gets a random term with a standard
deviation of at most k * 2^-49 * sqrt(2 d): 1e-5 for 50,000 weights and a noise multiplier of 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class NoiseSource(Protocol):
    """Independent normal numbers, never the same twice."""

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """A float64 tensor of `shape` with mean 0 and standard deviation `std`."""


class SeededNoise:
    """Reproducible noise for simulations: whoever knows the seed can take it off again.

    One sequence belongs to one (seed, silo, round); two sources over the same sequence repeat each
    other, which is what makes a simulation repeatable.
    """

    def __init__(self, sequence: np.random.SeedSequence) -> None:
        self._words = _Words(sequence.generate_state(8, np.uint32).tobytes())

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """The next numbers of the stream, shape `shape`, float64."""
        return _normal(self._words, shape, std)


class SystemNoise:
    """Cryptographic noise for real silos.

    Every call draws a fresh 256-bit key from the operating system and expands it with AES in
    counter mode, so there is no state that a fork, a copy or a restart could repeat.
    """

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """Fresh numbers of `shape`, float64."""
        return _normal(_Words(os.urandom(32)), shape, std)


class _Words:
    """Uniform 64-bit words: AES in counter mode under a key of 256 bits."""

    def __init__(self, key: bytes) -> None:
        # A counter from zero is safe: no other stream has this key.
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def draw(self, count: int) -> NDArray[np.int64]:
        """The next `count` words, shape (count,), not writable."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), "<i8")

    def fractions(self, count: int) -> Floats:
        """As many uniform numbers between 0 and 1: odd multiples of 2^-53."""
        return np.asarray(((self.draw(count) >> 12) + (2.0**51 + 0.5)) * 2.0**-52)


_LAYERS = 1024
_TOP, _AREA = 0.107, 0.0012211382690607868
"""Width of the highest rectangle, and the area of each so that the lowest stands on the axis."""
_AT_ONCE = 2**16
"""Numbers, so many that what is made of them stays in a core's cache."""


def _stairs() -> tuple[Floats, Floats]:
    """Widths and upper edges of the rectangles from the lowest; before them the axis, endless."""
    widths, height = [_TOP], math.exp(-(_TOP**2) / 2)
    while len(widths) < _LAYERS:
        height -= _AREA / widths[-1]
        widths.append(math.sqrt(-2 * math.log(height)))
    rising = np.array([math.inf, *reversed(widths)])
    return rising, np.cumsum(_AREA / rising)


_WIDTHS, _EDGES = _stairs()
_HALF = math.sqrt(math.pi / 2)
"""The area under the right half of the curve exp(-x^2 / 2)."""
_BESIDE = 1 - _LAYERS * _AREA / _HALF
"""The share that is not under the stairs."""
_TAIL = float(ndtr(-_WIDTHS[1]))

# What is beside them lies in boxes, one on each step and one on top; the first has the tail alone.
_BOXES = np.stack(
    [
        left := np.append(_WIDTHS[1:], 0.0),
        np.append(0.0, _WIDTHS[1:] - left[1:]),
        _EDGES,
        np.append(_EDGES[1:], 1.0) - _EDGES,
    ],
    axis=1,
)
"""Of each its left edge and width, its lower edge and height."""
_AREAS = np.cumsum(np.append(2 * _HALF * _TAIL, (_BOXES[:, 1] * _BOXES[:, 3])[1:]))


def _normal(words: _Words, shape: Sequence[int], std: float) -> Tensor:
    values = np.empty(math.prod(shape))
    widths = _WIDTHS[1:] * (std * 2.0**-63)
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        drawn = words.draw(len(part))
        # All 64 bits: those of the layer shift places by less than the distance between two.
        np.multiply(drawn, widths.take(drawn & (_LAYERS - 1)), out=part)
    others = _chosen(words, len(values))
    values[others] = np.copysign(std * _beside(words, len(others)), values[others])
    return torch.from_numpy(values).reshape(*shape)


def _chosen(words: _Words, count: int) -> Indices:
    """Which of `count` numbers come from beside the stairs: each by a coin of its own."""
    expected = count * _BESIDE
    lengths = np.log(words.fractions(int(expected + 9 * math.sqrt(expected) + 40)))
    places = np.cumsum((lengths / math.log1p(-_BESIDE)).astype(np.int64) + 1) - 1
    if places[-1] < count:  # once in 1e18
        after = int(places[-1]) + 1
        return np.append(places, after + _chosen(words, count - after))
    return places[: np.searchsorted(places, count)]


def _beside(words: _Words, count: int) -> Floats:
    """As many numbers of the Gaussian's right half, given that they lie beside the stairs."""
    if count == 0:
        return np.zeros(0)
    # A box by its area, then a place in it: the right one of two, more or less, is under the curve.
    box, across, up = words.fractions(3 * (2 * count + count // 4 + 16)).reshape(3, -1)
    boxes = np.searchsorted(_AREAS, box * _AREAS[-1])
    left, width, low, height = _BOXES.take(boxes, axis=0).T
    values = left + across * width
    under = low + up * height < np.exp(np.square(values) / -2)
    if len(tail := np.flatnonzero(boxes == 0)):
        # 52 bits more: the tail is to end where nothing is left, not at 8 deviations.
        values[tail] = -ndtri((across[tail] + (up[tail] - 0.5) * 2.0**-52) * _TAIL)
        under[tail] = True
    found = values[under][:count]
    return np.append(found, _beside(words, count - len(found)))
