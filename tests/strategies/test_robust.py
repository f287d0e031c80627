"""What liars can do to the robust rules, whatever they send."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.strategies import load_strategy

N, F, D = 11, 2, 4
LIE = st.one_of(
    st.floats(-2, 2, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([3e38, -3e38]),
)
LIES = st.lists(st.lists(LIE, min_size=D, max_size=D), min_size=F, max_size=F)
SEARCH = settings(max_examples=150, deadline=None, derandomize=True)


def attack(run_round, name, options, seed, lies, collude):
    """(result, honest updates) of a round in which F of N silos lie; colluders say the same."""
    honest = np.random.default_rng(seed).uniform(-1, 1, size=(N - F, D)).astype(np.float32)
    sent = [lies[0]] * F if collude else lies
    places = np.random.default_rng(seed + 1).permutation(N)
    vectors = np.concatenate([honest, np.array(sent, np.float32)])[places]
    return run_round(load_strategy(name, options), vectors), honest


@pytest.mark.parametrize(
    ("name", "options"), [("fedmedian", {}), ("trimmed-mean", {"fraction": 0.2})]
)
@given(seed=st.integers(0, 999), lies=LIES, collude=st.booleans())
@SEARCH
def test_the_result_stays_between_honest_values(run_round, name, options, seed, lies, collude):
    moved, honest = attack(run_round, name, options, seed, lies, collude)
    assert (moved >= honest.min(axis=0) - 1e-6).all()
    assert (moved <= honest.max(axis=0) + 1e-6).all()


@pytest.mark.parametrize(("name", "options"), [("krum", {}), ("multikrum", {"keep": 3})])
@given(seed=st.integers(0, 999), lies=LIES, collude=st.booleans())
@SEARCH
def test_krums_choice_stays_near_the_honest(run_round, name, options, seed, lies, collude):
    # A liar is chosen only with a score as low as an honest one's, at most N-F-2 squared diameters,
    # and two of its neighbours at least are honest.
    options = {"byzantine": F, **options}
    moved, honest = attack(run_round, name, options, seed, lies, collude)
    apart = np.linalg.norm(honest[:, None] - honest[None], axis=2)
    reach = np.sqrt(N - F - 2) * apart.max()
    assert np.linalg.norm(honest - moved, axis=1).min() <= reach + apart.max()


@given(seed=st.integers(0, 999), lies=LIES, collude=st.booleans())
@SEARCH
def test_bulyan_stays_within_one_spread_of_the_honest(run_round, seed, lies, collude):
    # The median lies between honest values; enough honest ones are as near to it as their spread.
    moved, honest = attack(run_round, "bulyan", {"byzantine": F}, seed, lies, collude)
    low, high = honest.min(axis=0), honest.max(axis=0)
    assert (moved >= low - (high - low) - 1e-6).all()
    assert (moved <= high + (high - low) + 1e-6).all()


@pytest.mark.parametrize("name", ["krum", "multikrum", "bulyan"])
@pytest.mark.parametrize("scale", [2.0**-80, 2.0**80])
def test_krums_choice_does_not_depend_on_the_scale(run_round, name, scale):
    # Squares of these lie outside float32.
    vectors = np.random.default_rng(2).normal(size=(9, D)).astype(np.float32)
    moved = run_round(load_strategy(name, {}), vectors * np.float32(scale))
    expected = run_round(load_strategy(name, {}), vectors) * np.float32(scale)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_the_mean_does_not_resist(run_round):
    # The attack above is a real one: it moves a plain mean as far as it likes.
    moved, _ = attack(run_round, "fedavg", {}, 0, [[1e30] * D] * F, collude=True)
    assert (moved > 1e29).all()


@given(st.integers(0, 999), st.integers(1, 12), st.floats(0, 0.499))
@SEARCH
def test_the_trimmed_mean_lies_between_the_smallest_and_the_largest(run_round, seed, n, fraction):
    vectors = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    moved = run_round(load_strategy("trimmed-mean", {"fraction": fraction}), vectors)
    assert (moved >= vectors.min(axis=0) - 1e-6).all()
    assert (moved <= vectors.max(axis=0) + 1e-6).all()


@pytest.mark.parametrize("name", ["fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan"])
def test_blocks_of_coordinates_make_no_difference(run_round, name):
    # More values than fit in one block: the ends must be treated as the middle is.
    vectors = np.random.default_rng(5).normal(size=(9, 70_001)).astype(np.float32)
    whole = run_round(load_strategy(name, {}), vectors)
    if name in ("fedmedian", "trimmed-mean"):
        tail = run_round(load_strategy(name, {}), vectors[:, -5:])
        np.testing.assert_array_equal(whole[-5:], tail)
    rule = np.median(vectors, axis=0)
    assert np.abs(whole - rule).mean() < 1.5
    assert not np.isnan(whole).any()
