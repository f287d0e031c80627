"""Which records take part in a step: Poisson sampling, with its rate and step count exact."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from privet.errors import DataError, PrivacyError


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
