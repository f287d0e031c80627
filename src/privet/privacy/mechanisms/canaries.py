"""Records that belong to nobody, on coordinates that no other record moves: for the audit.

A model gets a block of coordinates beside its parameters. Some carry a canary record, whose
gradient is one on its own coordinate, far longer than the clip norm, and zero elsewhere. Canaries
are sampled, clipped, summed, covered by noise and stepped on as records of the silo are, in the
same calls; what is left on the block is known exactly (`privacy.audit`). Records have no gradient
on the block and canaries none on the model, so neither changes the other, and what is seen of the
block depends on no record at all. The block never leaves with an update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.privacy.mechanisms.gradients import Gradients, Sums

LOUDNESS = 1000.0
"""A canary's gradient in clip norms: one that is not clipped, or not by itself, stands out."""


@dataclass(frozen=True)
class Canaries:
    """Which coordinates of a silo's block carry a record; shape (m,), the same in every round."""

    inserted: NDArray[np.bool_]

    def __len__(self) -> int:
        """How many coordinates."""
        return len(self.inserted)

    @cached_property
    def coordinates(self) -> NDArray[np.int64]:
        """Of each canary record its coordinate."""
        return np.flatnonzero(self.inserted)


@dataclass
class CanaryTrace:
    """What a training made of a block: of every step its canaries and its private gradient."""

    width: int
    coordinates: list[NDArray[np.int64]] = field(default_factory=list)
    """Where canaries were sampled."""
    private: list[Tensor] = field(default_factory=list)

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Where a canary took part, shape (steps, m)."""
        taken = np.zeros((len(self.coordinates), self.width), dtype=np.bool_)
        for step, coordinates in enumerate(self.coordinates):
            taken[step, coordinates] = True
        return taken

    @property
    def gradients(self) -> NDArray[np.float32]:
        """What the optimizer stepped on, shape (steps, m)."""
        return np.asarray(torch.stack(self.private).numpy())


class CanaryBlock:
    """The block of one training: its parameter, and its trace."""

    def __init__(self, canaries: Canaries) -> None:
        self.parameter = nn.Parameter(torch.zeros(len(canaries)))
        self.trace = CanaryTrace(len(canaries))
        self._canaries = canaries
        self._sampled = canaries.coordinates[:0]

    def apart(
        self, batches: Iterable[NDArray[np.int64]], n_records: int
    ) -> Iterator[NDArray[np.int64]]:
        """The records of each batch; the canaries in it, from `n_records` on, join its step."""
        for batch in batches:
            records, canaries = split(batch, n_records)
            self._sampled = self._canaries.coordinates[canaries]
            yield records

    def gradients(self, *, clip: float) -> list[Gradients]:
        """Those of the step's canaries; none when none was sampled."""
        if len(self._sampled) == 0:
            return []
        lengths = torch.full((len(self._sampled),), LOUDNESS * clip)
        return [_CanaryGradients(self.parameter, torch.from_numpy(self._sampled), lengths)]

    def look(self) -> None:
        """Keep what the optimizer is about to step on."""
        assert self.parameter.grad is not None
        self.trace.coordinates.append(self._sampled)
        self.trace.private.append(self.parameter.grad.clone())


def split(batch: NDArray[np.int64], n_records: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A sorted batch's records, and its canaries numbered from 0."""
    at = int(np.searchsorted(batch, n_records))
    return batch[:at], batch[at:] - n_records


@dataclass
class _CanaryGradients:
    """The gradients of n canaries: on one coordinate each, and as long as `lengths` says."""

    parameter: nn.Parameter
    coordinates: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def squared_norms(self) -> Tensor:
        return self.lengths.square()

    def drop(self, examples: Tensor) -> None:
        self.lengths[examples] = 0.0

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        into[self.parameter].index_add_(0, self.coordinates, weights * self.lengths)
