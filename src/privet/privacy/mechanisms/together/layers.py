"""Layers over K silos at once: activations (K, B, features), parameters (K, *shape).

Each knows its examples' gradients by two factors: what `prepare` made of its input and the
gradient of its output, `backprops`, shape (K, B, outputs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Layer(Protocol):
    """A layer with parameters."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one silo's parameters, in the order in which the module names them."""

    def prepare(self, inputs: Tensor) -> Tensor:
        """The factor of the gradients that is known after the forward pass."""

    def apply(self, prepared: Tensor, *parameters: Tensor) -> Tensor:
        """The layer's output."""

    def squared_norms(self, prepared: Tensor, backprops: Tensor) -> Tensor:
        """Squared L2 norm of each example's gradient over the layer, shape (K, B)."""

    def add_sums(self, prepared: Tensor, weighted: Tensor, *into: Tensor) -> None:
        """Add the sum of the gradients over B, `weighted` being backprops times weights."""


@dataclass(frozen=True)
class Linear:
    """nn.Linear on matrices of one row per example."""

    inputs: int
    outputs: int
    bias: bool

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        weight = (self.outputs, self.inputs)
        return (weight, (self.outputs,)) if self.bias else (weight,)

    def prepare(self, inputs: Tensor) -> Tensor:
        return inputs

    def apply(self, prepared: Tensor, *parameters: Tensor) -> Tensor:
        weight, *bias = parameters
        if not bias:
            return torch.bmm(prepared, weight.mT)
        return torch.baddbmm(bias[0].unsqueeze(1), prepared, weight.mT)

    def squared_norms(self, prepared: Tensor, backprops: Tensor) -> Tensor:
        return _squared(backprops) * (_squared(prepared) + float(self.bias))

    def add_sums(self, prepared: Tensor, weighted: Tensor, *into: Tensor) -> None:
        weight, *bias = into
        weight.baddbmm_(weighted.mT, prepared)
        for sums in bias:
            sums.add_(weighted.sum(1))


@dataclass(frozen=True)
class LayerNorm:
    """nn.LayerNorm with weights and bias, over all features of rows."""

    features: int
    eps: float

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.features,),) * 2

    def prepare(self, inputs: Tensor) -> Tensor:
        return F.layer_norm(inputs, (self.features,), eps=self.eps)

    def apply(self, prepared: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias = parameters
        return prepared * weight.unsqueeze(1) + bias.unsqueeze(1)

    def squared_norms(self, prepared: Tensor, backprops: Tensor) -> Tensor:
        return _squared(backprops * prepared) + _squared(backprops)

    def add_sums(self, prepared: Tensor, weighted: Tensor, *into: Tensor) -> None:
        weight, bias = into
        weight.add_((weighted * prepared).sum(1))
        bias.add_(weighted.sum(1))


def _squared(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=2)
    return norms.square_()
