"""How much of each example's gradient counts, so that none is longer than the clip norm."""

from __future__ import annotations

from torch import Tensor

_ROUNDING = 1 - 1e-5
_EPS = 1e-6


def clip_factors(norms: Tensor, clip: float | Tensor) -> Tensor:
    """min(1, clip / norm) for gradients of L2 norm `norms`, which must be finite.

    A little below the bound, so that rounding cannot lift a gradient above it.
    """
    return (clip * _ROUNDING / (norms + _EPS)).clamp_(max=1.0)
