"""Per-example gradients, kept in the smallest form that still gives norms and clipped sums.

How much of each example's gradient counts, so that none is longer than the clip norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Sums = dict[Tensor, Tensor]
"""For each parameter the tensor of its shape to which a weighted sum is added."""


class Gradients(Protocol):
    """The gradients of n examples with respect to some parameters."""

    def __len__(self) -> int:
        """How many examples."""

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each example's gradient over these parameters, shape (n,)."""

    def drop(self, examples: Tensor) -> None:
        """Make the gradients of the examples marked in a mask of shape (n,) exactly zero."""

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        """Add sum_i weights[i] * gradient_i, weights of shape (n,)."""


@dataclass
class DenseGradients:
    """One parameter's gradients in full, shape (n, *parameter.shape)."""

    parameter: nn.Parameter
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def squared_norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self._rows(), dim=1)
        return norms.square()

    def drop(self, examples: Tensor) -> None:
        self.values[examples] = 0.0

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        into[self.parameter].view(-1).addmv_(self._rows().T, weights)

    def _rows(self) -> Tensor:
        return self.values.reshape(len(self.values), -1)


@dataclass
class OuterGradients:
    """A linear layer's gradients as factors: example i's is backprops[i] x activations[i].

    The norm is the product of the factors' norms (Goodfellow 2015, arXiv 1510.01799) and the
    weighted sum is one matrix product, so the n x outputs x inputs numbers are never written down
    (the book-keeping trick of Bu et al. 2023, arXiv 2210.00038).
    """

    layer: nn.Linear
    activations: Tensor
    backprops: Tensor

    def __len__(self) -> int:
        return len(self.backprops)

    def squared_norms(self) -> Tensor:
        per_output = self.backprops.square().sum(1)
        inputs = torch.zeros_like(per_output)
        if self.layer.weight.requires_grad:
            inputs += self.activations.square().sum(1)
        if self.layer.bias is not None and self.layer.bias.requires_grad:
            inputs += 1.0
        return outer_squared_norms(per_output, inputs)

    def drop(self, examples: Tensor) -> None:
        kept = ~examples.unsqueeze(1)
        # where, not a product: NaN * 0 would stay NaN.
        self.activations = torch.where(kept, self.activations, 0.0)
        self.backprops = torch.where(kept, self.backprops, 0.0)

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        if self.layer.weight.requires_grad:
            weighted = self.backprops * weights.unsqueeze(1)
            into[self.layer.weight].addmm_(weighted.T, self.activations)
        if self.layer.bias is not None and self.layer.bias.requires_grad:
            into[self.layer.bias].addmv_(self.backprops.T, weights)


def outer_squared_norms(first: Tensor, second: Tensor) -> Tensor:
    """Those of outer products, by the squared norms of their factors, (n,) each.

    Infinite, so that the example counts as zero, where one factor is longer than 1e12: the square
    of the other may then be too small for float32 while the product is longer than the clip norm.
    """
    long = torch.maximum(first, second) > 1e24
    return (first * second).masked_fill(long, torch.inf)


# float32 norms and sums are off by a few 1e-7 relative; 1e-5 leaves room for wide layers. The
# event promises sensitivity `clip` exactly, so a gradient may be shorter, never longer.
_ROUNDING = 1 - 1e-5
_EPS = 1e-6


def clip_factors(norms: Tensor, clip: float | Tensor) -> Tensor:
    """min(1, clip / norm) for gradients of L2 norm `norms`, which must be finite.

    A little below the bound, so that rounding cannot lift a gradient above it.
    """
    return (clip * _ROUNDING / (norms + _EPS)).clamp_(max=1.0)
