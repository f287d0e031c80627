"""What examples look like, and made-up ones to try a model and a loss on: no record is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from privet.pytrees import Tree, leaves, mapped, scores, with_leaves

_ROWS = 4

Shapes = Any
"""A tensor's shape without the batch, or a tuple or dict of such, as the tensors are."""
Types = Any
"""A dtype, or a tuple or dict of such."""


@dataclass(frozen=True)
class ExampleType:
    """What an example looks like, and nothing of any: shapes without the batch, and dtypes."""

    inputs: Shapes
    input_type: Types = torch.float32
    targets: Shapes = ()
    target_type: Types = torch.int64

    @classmethod
    def of(cls, inputs: Tree, targets: Tree) -> Self:
        """That of n examples, trees of tensors (n, ...)."""
        return cls(_shapes(inputs), _types(inputs), _shapes(targets), _types(targets))

    @property
    def single(self) -> bool:
        """Whether input and target are one tensor each."""
        return all(isinstance(each, torch.dtype) for each in (self.input_type, self.target_type))

    def zeros(self, rows: int) -> tuple[Tree, Tree]:
        """Inputs and targets of so many examples that are all zero."""
        inputs = _zeros(self.inputs, self.input_type, rows)
        return inputs, _zeros(self.targets, self.target_type, rows)

    def fits(self, inputs: Tree, targets: Tree) -> bool:
        """Whether examples look so."""
        return type(self).of(inputs, targets) == self

    def made_up(self, rows: int = _ROWS) -> Iterator[Tree]:
        """Inputs (rows, ...) that a model may accept, the likeliest first.

        The first row of zeros and ones is all zero: padding, where that means something. Of several
        tensors each in turn has numbers while the others, as masks, have zeros and ones.
        """
        like, _ = self.zeros(rows)
        count = len(leaves(like))
        generator = torch.Generator().manual_seed(0)
        alone = [[at == place for at in range(count)] for place in range(count)]
        for large in ([True] * count, *(alone if count > 1 else []), [False] * count):
            pairs = zip(leaves(like), large, strict=True)
            yield with_leaves(like, [_drawn(*pair, generator) for pair in pairs])

    def made_up_targets(self, outputs: Any) -> Tree:
        """Targets for the rows of `outputs`: classes that its width allows, or numbers to 1."""
        rows = len(leaves(outputs)[0])
        _, like = self.zeros(rows)
        return mapped(lambda leaf: _target(leaf, scores(outputs)), like)


def _shapes(tree: Tree) -> Shapes:
    return mapped(lambda leaf: tuple(leaf.shape[1:]), tree)


def _types(tree: Tree) -> Types:
    return mapped(lambda leaf: leaf.dtype, tree)


def _zeros(shapes: Shapes, types: Types, rows: int) -> Tree:
    # Types say where the leaves are: a shape is a tuple, as a tree may be.
    if isinstance(types, torch.dtype):
        return torch.zeros((rows, *shapes), dtype=types)
    if isinstance(types, Mapping):
        return {name: _zeros(shapes[name], each, rows) for name, each in types.items()}
    return tuple(_zeros(*pair, rows) for pair in zip(shapes, types, strict=True))


def _drawn(like: Tensor, large: bool, generator: torch.Generator) -> Tensor:
    shape = like.shape
    if not large:
        small = torch.randint(0, 2, shape, generator=generator)
        small[:1], small[1:2] = 0, 1
        return small.to(like.dtype)
    if like.is_floating_point() or like.is_complex():
        return torch.randn(shape, generator=generator, dtype=like.dtype)
    numbers = torch.randint(0, 256, shape, generator=generator)
    numbers[:1], numbers[1:2] = 0, 1
    return numbers.to(like.dtype)


def _target(like: Tensor, outputs: Tensor | None) -> Tensor:
    rows = len(like)
    each = (rows, *(1 for _ in like.shape[1:]))
    if like.is_floating_point():
        values = torch.linspace(0.0, 1.0, rows).view(each)
        return values.expand(like.shape).to(like.dtype).clone()
    order = torch.arange(rows).view(each).expand(like.shape)
    return (order % max(2, _classes(like, outputs))).to(like.dtype).clone()


def _classes(targets: Tensor, outputs: Tensor | None) -> int:
    """How many there are: of a sequence's or an image's targets the axis that they do not have."""
    if outputs is None or outputs.dim() < 2:
        return 2
    last = targets.dim() > 1 and outputs.shape[1:-1] == targets.shape[1:]
    return int(outputs.shape[-1] if last else outputs.shape[1])
