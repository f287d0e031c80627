"""Per-example gradients, kept in the smallest form that still gives norms and clipped sums.

How much of each example's gradient counts, so that none is longer than the clip norm. Gradients are
float32, as torch made them; norms, factors and sums are float64 (`privet.privacy.mechanisms.grid`),
on the device of the gradients, or on the CPU where that has no float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from privet.devices import exact, exact_place

Sums = dict[Tensor, Tensor]
"""For each parameter the float64 tensor of its shape to which a weighted sum is added."""


class Gradients(Protocol):
    """The gradients of n examples with respect to some parameters."""

    def __len__(self) -> int:
        """How many examples."""

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each example's gradient over these parameters, float64 (n,)."""

    def drop(self, examples: Tensor) -> None:
        """Make the gradients of the examples marked in a mask of shape (n,) exactly zero."""

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        """Add sum_i weights[i] * gradient_i, weights float64 of shape (n,)."""


@dataclass
class DenseGradients:
    """One parameter's gradients in full, shape (n, *parameter.shape), or those of some rows."""

    parameter: Tensor
    values: Tensor
    rows: slice | None = None
    """Of the parameter, where these are not all of it."""

    def __len__(self) -> int:
        return len(self.values)

    def squared_norms(self) -> Tensor:
        return torch.cat(
            [torch.linalg.vector_norm(exact(rows), dim=1) for rows in self._parts]
        ).square_()

    def drop(self, examples: Tensor) -> None:
        self.values[examples.to(self.values.device)] = 0.0

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        whole = into[self.parameter]
        total = (whole if self.rows is None else whole[self.rows]).view(-1)
        for part, some in zip(self._parts, torch.split(weights, self._at_once), strict=True):
            total.addmv_(exact(part).T, some)

    @property
    def _at_once(self) -> int:
        return max(1, _AT_ONCE // max(1, self.parameter.numel()))

    @property
    def _parts(self) -> Sequence[Tensor]:
        """A few rows to turn into float64 at a time: they are many times the model's size."""
        return torch.split(self.values.reshape(len(self), -1), self._at_once)


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
        per_output = exact(self.backprops).square_().sum(1)
        inputs = torch.zeros_like(per_output)
        if self.layer.weight.requires_grad:
            inputs += exact(self.activations).square_().sum(1)
        if self.layer.bias is not None and self.layer.bias.requires_grad:
            inputs += 1.0
        return per_output * inputs

    def drop(self, examples: Tensor) -> None:
        kept = ~examples.unsqueeze(1).to(self.backprops.device)
        # where, not a product: NaN * 0 would stay NaN.
        self.activations = torch.where(kept, self.activations, 0.0)
        self.backprops = torch.where(kept, self.backprops, 0.0)

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        weighted = exact(self.backprops) * weights.unsqueeze(1)
        if self.layer.weight.requires_grad:
            into[self.layer.weight].addmm_(weighted.T, exact(self.activations))
        if self.layer.bias is not None and self.layer.bias.requires_grad:
            into[self.layer.bias].add_(weighted.sum(0))


@dataclass
class RowGradients:
    """An embedding's gradients by the rows that each example looked up, in float64.

    Each row of an example stands here once, so that their squares add up to its squared norm.
    """

    layer: nn.Embedding
    examples: int
    whose: Tensor
    """The example of each entry, shape (r,)."""
    rows: Tensor
    """The row of the table, shape (r,)."""
    values: Tensor
    """Shape (r, d)."""

    @classmethod
    def of(cls, layer: nn.Embedding, looked_up: Tensor, backprops: Tensor) -> Self:
        """Of indices (n, places) and the gradients (n, places, d) at what they gave."""
        count, size = len(looked_up), layer.num_embeddings
        keys = (looked_up + size * torch.arange(count, device=looked_up.device)[:, None]).flatten()
        values = backprops.reshape(len(keys), -1)
        if layer.padding_idx is not None:  # as in torch, it gets no gradient
            kept = looked_up.flatten() != layer.padding_idx
            keys, values = keys[kept], values[kept]
        values = exact(values)
        return cls._summed(layer, count, keys.to(values.device), values)

    @classmethod
    def _summed(cls, layer: nn.Embedding, count: int, keys: Tensor, values: Tensor) -> Self:
        """Of rows r of examples i, as i times the table's length plus r, what stands for each."""
        found, places = torch.unique(keys, return_inverse=True)
        sums = values.new_zeros(len(found), values.shape[1]).index_add_(0, places, values)
        size = layer.num_embeddings
        whose = found // size
        return cls(layer, count, whose, found - whose * size, sums)

    def averaged(self, copies: int) -> Self:
        """The mean gradients where so many rows that follow each other are of one example."""
        keys = self.whose // copies * self.layer.num_embeddings + self.rows
        return self._summed(self.layer, len(self) // copies, keys, self.values / copies)

    def __len__(self) -> int:
        return self.examples

    def squared_norms(self) -> Tensor:
        squares = self.values.square().sum(1)
        return squares.new_zeros(self.examples).index_add_(0, self.whose, squares)

    def drop(self, examples: Tensor) -> None:
        self.values[examples.to(self.values.device)[self.whose]] = 0.0

    def add_weighted(self, weights: Tensor, into: Sums) -> None:
        weighted = self.values * weights[self.whose].unsqueeze(1)
        into[self.layer.weight].index_add_(0, self.rows, weighted)


def averaged(part: Gradients, copies: int) -> list[Gradients]:
    """The mean gradients of rows that are `copies` of one example each, one after the other."""
    count = len(part) // copies
    if isinstance(part, DenseGradients):
        values = part.values.reshape(count, copies, *part.values.shape[1:])
        return [DenseGradients(part.parameter, values.mean(1), part.rows)]
    if isinstance(part, OuterGradients):
        return [*_averaged_outer(part, count, copies)]
    if isinstance(part, RowGradients):
        return [part.averaged(copies)]
    sums = []
    place = part.squared_norms().device
    for example in torch.eye(count, dtype=torch.float64, device=place):
        sums.append(_Recorded())
        part.add_weighted(example.repeat_interleave(copies) / copies, sums[-1])
    return [
        DenseGradients(p, torch.stack([each[p] for each in sums]).to(p.dtype))
        for p in (sums[0] if sums else {})
    ]


class _Recorded(dict[Tensor, Tensor]):
    """Sums of whatever parameters there are."""

    def __missing__(self, parameter: Tensor) -> Tensor:
        place = exact_place(parameter.device)
        self[parameter] = torch.zeros(parameter.shape, dtype=torch.float64, device=place)
        return self[parameter]


def _averaged_outer(part: OuterGradients, count: int, copies: int) -> Iterator[DenseGradients]:
    backprops = part.backprops.reshape(count, copies, -1) / copies
    if part.layer.weight.requires_grad:
        activations = part.activations.reshape(count, copies, -1)
        yield DenseGradients(part.layer.weight, backprops.transpose(1, 2) @ activations)
    if part.layer.bias is not None and part.layer.bias.requires_grad:
        yield DenseGradients(part.layer.bias, backprops.sum(1))


_AT_ONCE = 2**18
"""Numbers that are turned into float64 together."""

# Norms in float64 are off by less than 2^-21, relative, for as many as 2^31 weights. The event
# promises sensitivity `clip` exactly, so a gradient may be shorter, never longer.
_ROUNDING = 1 - 2.0**-20


def clip_factors(norms: Tensor, clip: float | Tensor) -> Tensor:
    """min(1, clip / norm) for gradients of L2 norm `norms`, float64, which must be finite.

    A little below the bound, so that rounding cannot lift a gradient above it.
    """
    return (clip * _ROUNDING / norms).clamp_(max=1.0)
