"""What examples look like, and made-up ones to try a model and a loss on: no record is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_ROWS = 4


@dataclass(frozen=True)
class ExampleType:
    """What an example looks like, and nothing of any: shapes without the batch, and dtypes."""

    inputs: tuple[int, ...]
    input_type: torch.dtype = torch.float32
    targets: tuple[int, ...] = ()
    target_type: torch.dtype = torch.int64

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Self:
        """That of n examples, inputs (n, ...) and targets (n, ...)."""
        return cls(tuple(inputs.shape[1:]), inputs.dtype, tuple(targets.shape[1:]), targets.dtype)

    def made_up(self, rows: int = _ROWS) -> Iterator[Tensor]:
        """Inputs (rows, ...) that a model may accept, the likeliest first.

        The first row of zeros and ones is all zero: padding, where that means something.
        """
        generator = torch.Generator().manual_seed(0)
        if self.input_type.is_floating_point or self.input_type.is_complex:
            yield torch.randn((rows, *self.inputs), generator=generator, dtype=self.input_type)
        else:
            large = torch.randint(0, 256, (rows, *self.inputs), generator=generator)
            large[:1], large[1:2] = 0, 1
            yield large.to(self.input_type)
        small = torch.randint(0, 2, (rows, *self.inputs), generator=generator)
        small[:1], small[1:2] = 0, 1
        yield small.to(self.input_type)

    def made_up_targets(self, outputs: Tensor) -> Tensor:
        """A target for each row of `outputs`: classes that its width allows, or numbers to 1."""
        rows = len(outputs)
        shape = (rows, *self.targets)
        if self.target_type.is_floating_point:
            values = torch.linspace(0.0, 1.0, rows).view(rows, *(1 for _ in self.targets))
            return values.expand(shape).to(self.target_type).clone()
        classes = outputs.shape[1] if outputs.dim() > 1 else 2
        order = torch.arange(rows).view(rows, *(1 for _ in self.targets)).expand(shape)
        return (order % max(2, classes)).to(self.target_type).clone()
