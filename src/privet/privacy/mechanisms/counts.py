"""A share of records, such as accuracy, released from counts with Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privet.privacy.accounting import gaussian_event
from privet.privacy.dp_events import DpEvent
from privet.privacy.mechanisms.noise import NoiseSource


@dataclass(frozen=True)
class NoisyShare:
    """The mean of per-record values in [0, 1], from two sums with noise.

    Guarantee: `event()` under add-or-remove adjacency of one record. The sums of v and of 1 - v
    over the records move by v and 1 - v when a record comes or goes: an L2 distance of at most 1.
    `noise_multiplier` is the noise's standard deviation over that (Gaussian mechanism, Dwork & Roth
    2014, appendix A). The share is computed from the two noisy sums alone, so neither the number of
    records nor anything else about them is used besides.
    """

    noise_multiplier: float

    def event(self) -> DpEvent:
        """What one release costs."""
        return gaussian_event(self.noise_multiplier)

    def release(self, values: Tensor, noise: NoiseSource) -> float:
        """The noisy share of `values`, shape (n,), clipped into [0, 1]; 0.5 when noise is all.

        Values outside [0, 1] are clipped and those that are no numbers count as 0, whatever they
        are, so that the bound on a record's influence holds for every metric.
        """
        bounded = torch.nan_to_num(values.double(), nan=0.0).clamp(0.0, 1.0)
        yes, no = bounded.sum(), (1.0 - bounded).sum()
        yes, no = torch.stack([yes, no]) + noise.normal((2,), self.noise_multiplier).double()
        total = float(yes + no)
        if total <= 0:
            return 0.5
        return min(1.0, max(0.0, float(yes) / total))
