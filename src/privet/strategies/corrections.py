"""Adding flat vectors to the gradients of a model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from privet.strategies.strategy import Vector

if TYPE_CHECKING:
    from torch import Tensor, nn


class FlatTensor:
    """A flat vector, shape (d,), seen as one tensor for each parameter, in order.

    The vector is copied. What lies behind the parameters (averaged buffers) has no gradient and is
    left out.
    """

    def __init__(self, vector: Vector) -> None:
        import torch

        self._tensor = torch.from_numpy(np.array(vector, dtype=np.float32))

    def like(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Views shaped like `parameters`, on their device; ValueError when those hold more."""
        import torch

        sizes = [parameter.numel() for parameter in parameters]
        if sum(sizes) > self._tensor.numel():
            raise ValueError(f"{sum(sizes)} parameters, but {self._tensor.numel()} values for them")
        if parameters and self._tensor.device != parameters[0].device:
            self._tensor = self._tensor.to(parameters[0].device)
        parts: tuple[Tensor, ...] = torch.split(self._tensor[: sum(sizes)], sizes)
        return [part.view_as(like) for part, like in zip(parts, parameters, strict=True)]
