"""A model as one flat vector: its parameters in order, then its floating-point buffers.

Aggregation rules, encryption and checkpoints see vectors of shape (d,), float32; only the two ends
of a round know modules. Integer buffers (BatchNorm's batch counter) stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privet.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

Vector = NDArray[np.float32]


class FlatModel:
    """A module whose state lies in one piece of memory, so that loading it is a single copy.

    Parameters and buffers of `module` become views of that memory; they stay the same objects.
    Raises ModelError for a parameter or floating-point buffer that is not float32 on the CPU.
    """

    def __init__(self, module: nn.Module, vector: Vector | None = None) -> None:
        """`vector`, shape (d,), is that memory and the state from now on, where it is given.

        ValueError for one of another length.
        """
        import torch  # late: who only passes vectors on, as a silo's own process, is spared it

        self.module = module
        tensors = dict(_state(module))
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                raise ModelError(f"{name!r} is {tensor.dtype} on {tensor.device}: use float32, CPU")
        self.sizes = tuple(tensor.numel() for tensor in tensors.values())
        """Of the tensors, in their order."""
        self._memory: Vector = np.empty(sum(self.sizes), np.float32)
        if vector is not None:
            self._check(vector)
            self._memory = vector
        parts = torch.split(torch.from_numpy(self._memory), list(self.sizes))
        for tensor, part in zip(tensors.values(), parts, strict=bool(tensors)):
            if vector is None:
                part.copy_(tensor.detach().reshape(-1))
            tensor.data = part.view(tensor.shape)  # what it had is free before the next is copied

    def load(self, vector: Vector) -> None:
        """Take over `vector`, shape (d,); ValueError when the length differs."""
        self._check(vector)
        np.copyto(self._memory, vector)

    def vector(self) -> Vector:
        """A copy of the state, shape (d,)."""
        return self._memory.copy()

    def _check(self, vector: Vector) -> None:
        if vector.shape != self._memory.shape:
            raise ValueError(
                f"the model has {len(self._memory)} values, the vector has shape {vector.shape}"
            )


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer
