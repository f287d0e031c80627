"""A share of records from noisy counts: its bound, its law, and what it does not use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privet.privacy.mechanisms import NoisyShare, SeededNoise, SystemNoise
from privet.randomness import stream


class Silent:
    """No noise, and what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], float]] = []

    def normal(self, shape, std):
        self.asked.append((tuple(shape), std))
        return torch.zeros(*shape)


class Shifted(Silent):
    """The same known numbers in place of noise."""

    def __init__(self, *shifts: float) -> None:
        super().__init__()
        self._shifts = shifts

    def normal(self, shape, std):
        super().normal(shape, std)
        return torch.tensor(self._shifts)


def test_without_noise_it_is_the_mean() -> None:
    values = torch.tensor([1.0, 0.0, 1.0, 1.0])
    silent = Silent()
    assert NoisyShare(3.0).release(values, silent) == 0.75
    assert silent.asked == [((2,), 3.0)]


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20),
    st.floats(allow_nan=True, allow_infinity=True),
)
def test_one_record_moves_the_two_sums_by_at_most_one(values: list[float], more: float) -> None:
    """Whatever the metric says of a record: the sums are found back from two releases."""

    def sums(data: list[float]) -> np.ndarray:
        # share a = (y + s) / (y + n + s), share b = y / (y + n + s): two equations for y and n.
        a = NoisyShare(1.0).release(torch.tensor(data), Shifted(1000.0, 0.0))
        b = NoisyShare(1.0).release(torch.tensor(data), Shifted(0.0, 1000.0))
        total = 1000 / (a - b)
        return np.array([b * total, total - 1000 - b * total])

    moved = np.linalg.norm(sums([*values, more]) - sums(values))
    assert moved <= 1 + 1e-6


def test_the_noise_has_the_claimed_law_and_not_another() -> None:
    """Level 0.01, fixed seed: KS test of the released share's numerator."""
    values = torch.ones(10_000)
    noise = SeededNoise(stream(4, "test"))
    # With all values 1, share = (n + x) / (n + x + y), so 1 - share is y / n to first order.
    shares = np.array([NoisyShare(5.0).release(values - 1e-9, noise) for _ in range(1000)])
    deviations = (1 - shares)[shares < 1] * 10_000
    assert 400 < len(deviations) < 600  # the other half was clipped at 1
    assert stats.kstest(deviations, stats.halfnorm(scale=5.0).cdf).pvalue > 0.01
    assert stats.kstest(deviations, stats.halfnorm(scale=4.0).cdf).pvalue < 0.01


def test_it_costs_a_gaussian_and_stays_a_share() -> None:
    assert NoisyShare(50.0).event() == GaussianDpEvent(50.0)
    values = torch.ones(3)
    released = [NoisyShare(1000.0).release(values, SystemNoise()) for _ in range(50)]
    assert all(0 <= share <= 1 and math.isfinite(share) for share in released)


def test_nothing_but_noise_says_nothing() -> None:
    assert NoisyShare(1.0).release(torch.ones(2), Shifted(-5.0, -5.0)) == 0.5


@pytest.mark.parametrize("noise", [-1.0, math.inf, math.nan])
def test_noise_that_is_none_is_refused(noise: float) -> None:
    with pytest.raises(Exception, match="noise_multiplier"):
        NoisyShare(noise).event()
