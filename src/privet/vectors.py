"""What trains of a model as one flat vector: parameters in order, then floating-point buffers.

Aggregation rules, encryption and checkpoints see vectors of shape (d,), float32; only the two ends
of a round know modules. What no training changes is no part of it (`privet.base`), and integer
buffers (BatchNorm's batch counter) stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privet.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from privet.base import Base

Vector = NDArray[np.float32]


class FlatModel:
    """A module whose state lies in one piece of memory, so that loading it is a single copy.

    Parameters that train and buffers of `module` become views of that memory; they stay the same
    objects. Raises ModelError for one of them that is not float32 on the CPU, and for a model whose
    parameters are all frozen.
    """

    def __init__(
        self, module: nn.Module, vector: Vector | None = None, *, constant: Sequence[str] = ()
    ) -> None:
        """`vector`, shape (d,), is that memory and the state from now on, where it is given.

        `constant`: buffers that the task declares to be of the base. ValueError for a vector of
        another length.
        """
        # Late: who only passes vectors on, as a silo's own process, is spared torch.
        import torch

        from privet.base import Base

        self.module = module
        self.base: Base = Base.of(module, constant)
        self.parameters = tuple(p for p in module.parameters() if p.requires_grad)
        """Those that train."""
        self.trained = tuple(n for n, p in module.named_parameters() if p.requires_grad)
        """Their names."""
        if self.base.tensors and not self.parameters:
            raise ModelError("the model has no trainable parameter: all of them are frozen")
        tensors = dict(_state(module, self.base))
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                raise ModelError(f"{name!r} is {tensor.dtype} on {tensor.device}: use float32, CPU")
        self.base.share()
        self.names = tuple(tensors)
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

    def check(self) -> None:
        """ModelError, with its name, for what a training must leave as it was and did not."""
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad == (id(parameter) in self.base.ids):
                raise ModelError(
                    f"'{name}.requires_grad' changes when the model runs: what trains is decided "
                    "when the task makes the model"
                )
        self.base.check()

    def state(self) -> dict[str, Tensor]:
        """The state dict of the module without what is of the base."""
        whole = self.module.state_dict(keep_vars=True)
        own = {name: tensor for name, tensor in whole.items() if id(tensor) not in self.base.ids}
        return {name: tensor.detach() for name, tensor in own.items()}

    def marks(self) -> dict[str, bytes]:
        """For each trained parameter a digest of its numbers: two that differ have moved."""
        tensors = zip(self.trained, self.parameters, strict=True)
        return {n: hashlib.sha256(p.detach().numpy().data).digest() for n, p in tensors}

    def _check(self, vector: Vector) -> None:
        if vector.shape != self._memory.shape:
            raise ValueError(
                f"the model has {len(self._memory)} values, the vector has shape {vector.shape}"
            )


def _state(module: nn.Module, base: Base) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        if id(parameter) not in base.ids:
            yield name, parameter
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and id(buffer) not in base.ids:
            yield name, buffer
