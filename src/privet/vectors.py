"""A model as one flat vector: its parameters in order, then its floating-point buffers.

Aggregation rules, encryption and checkpoints see vectors of shape (d,), float32; only the two ends
of a round know modules. Integer buffers (BatchNorm's batch counter) stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Vector = NDArray[np.float32]


def to_vector(model: nn.Module) -> Vector:
    """A copy of the model's state, shape (d,)."""
    with torch.no_grad():
        parts = [tensor.detach().reshape(-1).float() for tensor in _tensors(model)]
        return torch.cat(parts).numpy() if parts else np.zeros(0, dtype=np.float32)


def load_vector(model: nn.Module, vector: Vector) -> None:
    """Write `vector`, shape (d,), into the model in place; ValueError when the length differs."""
    tensors = list(_tensors(model))
    expected = sum(tensor.numel() for tensor in tensors)
    if vector.shape != (expected,):
        raise ValueError(f"the model has {expected} values, the vector has shape {vector.shape}")
    flat = torch.from_numpy(np.array(vector, dtype=np.float32))  # torch wants to own its memory
    with torch.no_grad():
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            yield buffer
