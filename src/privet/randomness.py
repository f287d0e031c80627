"""What makes a run repeatable: named random streams, and sums in one thread.

Every draw of a simulation comes from a stream named by (seed, purpose, silo, round), so the result
depends neither on the order in which clients run nor on how many processes run them, and no two
clients and no two rounds ever share noise. Nor do two runs that are not the same: see
`privet.simulations.decided`. On a real silo noise does not come from here: see
`privet.privacy.mechanisms.noise.SystemNoise`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np


def stream(seed: int, *names: int | str) -> np.random.SeedSequence:
    """The seed sequence of 256 bits that belongs to `names` under `seed`.

    Names are hashed with their types and lengths, so ("a", 11) and ("a1", 1) are different streams.
    """
    return np.random.SeedSequence(np.frombuffer(_digest(seed, *names), dtype=np.uint32).tolist())


def coin(seed: int, *names: int | str) -> float:
    """The number in [0, 1), of 53 bits, that belongs to `names` under `seed`.

    It takes an eighth of the time of a generator, where each of a thousand silos has one draw.
    """
    return float(int.from_bytes(_digest(seed, *names)[:7], "little") >> 3) / 2.0**53


def _digest(*names: int | str) -> bytes:
    return hashlib.sha256("/".join(map(_label, names)).encode()).digest()


# Typed: else 1, 1.0 and True are one key, and they have different labels.
@lru_cache(maxsize=4096, typed=True)
def _label(name: int | str) -> str:
    return f"{type(name).__name__}:{len(str(name))}:{name}"


def numpy_generator(sequence: np.random.SeedSequence) -> np.random.Generator:
    """A PCG64 generator over `sequence`."""
    return np.random.Generator(np.random.PCG64(sequence))


def torch_seed(sequence: np.random.SeedSequence) -> int:
    """A 63-bit seed for `torch.manual_seed`, for draws that guard nothing (initial weights)."""
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def drawing() -> Iterator[Callable[..., None]]:
    """Yields what seeds torch's, numpy's and Python's own generators by numbers; as often as asked.

    Afterwards they are as they were before.
    """
    import torch

    before = torch.get_rng_state(), np.random.get_state(), random.getstate()

    def seeded(*names: int) -> None:
        words = np.frombuffer(_digest("drawing", *names), dtype=np.uint32)
        torch.default_generator.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        np.random.seed(words[2:5])
        random.seed(words[5:].tobytes())

    try:
        yield seeded
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute in one thread: sums then do not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
