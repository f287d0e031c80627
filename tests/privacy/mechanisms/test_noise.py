import multiprocessing
import os

import numpy as np
import pytest
import torch
from scipy import stats

from privet.privacy.mechanisms import SeededNoise, SystemNoise
from privet.randomness import stream

SOURCES = [SystemNoise, lambda: SeededNoise(stream(7, "noise", 0, 1))]


def as_drawn(count=20_000, std=1.0, source=None):
    return (source or SystemNoise()).normal((count,), std).double().numpy()


@pytest.mark.parametrize("make", SOURCES, ids=["system", "seeded"])
def test_noise_is_normal(make):
    """Kolmogorov-Smirnov at level 1e-6; a standard deviation 5 % off is refused at that level."""
    values = as_drawn(200_000, 2.5, make())
    assert stats.kstest(values, stats.norm(scale=2.5).cdf).pvalue > 1e-6
    assert stats.kstest(values, stats.norm(scale=2.5 * 1.05).cdf).pvalue < 1e-6


@pytest.mark.parametrize("make", SOURCES, ids=["system", "seeded"])
def test_neighbouring_numbers_do_not_correlate(make):
    """Each autocorrelation of 200,000 numbers has standard error 0.0022; the level is 1e-6."""
    values = as_drawn(200_000, 1.0, make())
    half = len(values) // 2
    for lag in (1, 2, 3, half):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 5 / np.sqrt(half)


def test_the_tails_of_system_noise_are_there():
    """P(|z| > 4) = 6.3e-5: of 4 million numbers 253 are expected; the level is 1e-6."""
    beyond = sum(int((np.abs(as_drawn(500_000)) > 4).sum()) for _ in range(8))
    assert stats.binomtest(beyond, 4_000_000, 2 * stats.norm.sf(4)).pvalue > 1e-6


@pytest.mark.parametrize("make", SOURCES, ids=["system", "seeded"])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0,), (5, 0), (1,)])
def test_shape_type_and_zero_width(make, shape):
    noise = make().normal(shape, 1.0)
    assert noise.shape == shape
    assert noise.dtype == torch.float64
    assert make().normal(shape, 0.0).abs().sum() == 0


def test_no_two_draws_of_system_noise_are_alike():
    first, second = SystemNoise(), SystemNoise()
    draws = [as_drawn(100, source=s) for s in (first, first, second)]
    assert len({draw.tobytes() for draw in draws}) == 3


def test_seeded_noise_follows_its_name_and_nothing_else():
    torch.manual_seed(1)
    once = as_drawn(100, source=SeededNoise(stream(7, "noise", 0, 1)))
    torch.manual_seed(2)
    again = as_drawn(100, source=SeededNoise(stream(7, "noise", 0, 1)))
    next_round = as_drawn(100, source=SeededNoise(stream(7, "noise", 0, 2)))
    other_silo = as_drawn(100, source=SeededNoise(stream(7, "noise", 1, 1)))
    assert (once == again).all()
    assert not np.isin(next_round, once).any()
    assert not np.isin(other_silo, once).any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_repeat_system_noise():
    source = SystemNoise()
    source.normal((10,), 1.0)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=lambda: send.send_bytes(source.normal((8,), 1.0).numpy()))
    child.start()
    from_child = np.frombuffer(receive.recv_bytes(), dtype=np.float64)
    child.join()
    mine = source.normal((8,), 1.0).numpy()
    assert len(from_child) == 8
    assert not np.isin(from_child, mine).any()
