"""What holds for the rounds of every strategy."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.strategies import STRATEGIES, RoundSkipped, Update, load_strategy

ALL = list(STRATEGIES)
MEANS = [
    "fedavg",
    "fedprox",
    "fedmedian",
    "trimmed-mean",
    "krum",
    "multikrum",
    "bulyan",
    "scaffold",
]
SUMS = ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "qfedavg", "scaffold"]
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def draws(seed, n, d=5):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def same(one, other):
    return {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


@pytest.mark.parametrize("name", ALL)
def test_an_empty_round_changes_neither_weights_nor_state(run_round, name):
    strategy = load_strategy(name, {})
    start = run_round(strategy, draws(0, 8))
    before = strategy.state()
    after = strategy.open(start, lr=0.5).close(round=2, silos=8)
    assert after.tobytes() == start.tobytes()
    assert same(strategy.state(), before)


@pytest.mark.parametrize("name", MEANS)
@given(seed=SEEDS, n=st.integers(7, 12))
@FEW
def test_equal_updates_are_taken_as_they_are(run_round, name, seed, n):
    vector = draws(seed, 1)[0]
    moved = run_round(load_strategy(name, {}), [vector] * n)
    np.testing.assert_allclose(moved, vector, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
@FEW
def test_the_order_of_arrival_does_not_matter(run_round, name, seed):
    rng = np.random.default_rng(seed)
    vectors, counts, losses = draws(seed, 9), rng.integers(1, 99, 9), rng.uniform(0.1, 3, 9)
    order = rng.permutation(9)
    one = run_round(load_strategy(name, {}), vectors, counts=counts, losses=losses)
    other = run_round(
        load_strategy(name, {}), vectors[order], counts=counts[order], losses=losses[order]
    )
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_the_same_round_twice_gives_the_same_bits(run_round, name):
    vectors = draws(3, 9, d=1000)
    one, other = (run_round(load_strategy(name, {}), vectors) for _ in range(2))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
@given(seed=SEEDS, n=st.integers(1, 40))
@FEW
def test_running_sums_equal_exact_arithmetic_rounded_once(run_round, name, seed, n):
    rng = np.random.default_rng(seed)
    # The common offset of 1000 costs a sum in float32 its last digits.
    vectors, counts = draws(seed, n) + np.float32(1000), rng.integers(1, 5000, n)
    oracle = np.average(vectors.astype(np.float64), axis=0, weights=counts)
    moved = run_round(load_strategy(name, {}), vectors, counts=counts)
    np.testing.assert_array_equal(moved, oracle.astype(np.float32))


@given(seed=SEEDS)
@FEW
def test_a_mean_of_silos_can_stand_for_them_in_a_linear_strategy(run_round, seed):
    rng = np.random.default_rng(seed)
    vectors, counts = draws(seed, 6), rng.integers(1, 99, 6)
    mean = np.average(vectors.astype(np.float64), axis=0, weights=counts)
    for name in SUMS:
        if load_strategy(name, {}).linear and name != "scaffold":
            one = run_round(load_strategy(name, {}), vectors, counts=counts)
            other = run_round(load_strategy(name, {}), [mean], counts=[counts.sum()])
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedavgm"])
def test_silos_without_records_move_nothing(run_round, name):
    strategy = load_strategy(name, {})
    assert run_round(strategy, [[1], [2]], start=[7], counts=[0, 0]).tolist() == [7]
    assert strategy.state() == {}


@pytest.mark.parametrize("name", SUMS)
def test_memory_does_not_grow_with_the_number_of_updates(name):
    def peak(updates, size=200_000):
        strategy = load_strategy(name, {})
        gathered = strategy.open(np.zeros(size, np.float32), lr=0.1)
        tracemalloc.start()
        for i in range(updates):
            vector = np.full(size, i, np.float32)
            extras = dict.fromkeys(strategy.extras, vector)
            gathered.add(Update(vector, weight=1, loss=1.0, extras=extras))
        gathered.close(round=1, silos=updates)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(60) < 1.02 * peak(3)


@pytest.mark.parametrize("name", ALL)
def test_a_split_run_equals_a_whole_one_bit_for_bit(run_round, name):
    def rounds(strategy, weights, numbers):
        for number in numbers:
            weights = run_round(
                strategy, draws(number, 9) * 0.1, start=weights, number=number, silos=12
            )
        return weights

    strategy, start = load_strategy(name, {}), np.zeros(5, np.float32)
    whole = rounds(strategy, start, [1, 2, 3, 4])
    first = load_strategy(name, {})
    middle = rounds(first, start, [1, 2])
    saved = {key: vector.copy() for key, vector in first.state().items()}
    rounds(first, middle, [3])  # going on must not disturb what was saved
    second = load_strategy(name, {})
    second.load_state(saved)
    assert rounds(second, middle, [3, 4]).tobytes() == whole.tobytes()
    assert same(second.state(), strategy.state())


@pytest.mark.parametrize(
    ("name", "keys"),
    [("fedavgm", {"momentum"}), ("fedadam", {"m", "v"}), ("scaffold", {"c"}), ("krum", set())],
)
def test_the_state_is_what_the_rule_needs_and_no_more(run_round, name, keys):
    strategy = load_strategy(name, {})
    run_round(strategy, draws(0, 9))
    state = strategy.state()
    assert set(state) == keys
    assert all(v.shape == (5,) and v.dtype == np.float32 for v in state.values())


def test_a_foreign_state_is_refused(run_round):
    strategy = load_strategy("fedavgm", {})
    with pytest.raises(ValueError, match=r"keeps \['momentum'\], the checkpoint has \['c'\]"):
        strategy.load_state({"c": np.zeros(3, np.float32)})
    strategy.load_state({"momentum": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"shape \(3,\), the model \(5,\)"):
        run_round(strategy, draws(0, 2))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "wrong",
    [
        {"vector": np.array([1, np.nan, 0, 0, 0], np.float32)},
        {"vector": np.array([1, np.inf, 0, 0, 0], np.float32)},
        {"vector": np.zeros(4, np.float32)},
        {"vector": np.zeros((5, 1), np.float32)},
        {"vector": np.zeros(5, np.int64)},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"weight": 1e300},
    ],
)
def test_an_update_that_is_none_is_refused_and_leaves_no_trace(name, wrong):
    def close(*updates):
        strategy = load_strategy(name, {})
        gathered = strategy.open(np.ones(5, np.float32), lr=0.5)
        for update in updates:
            if update is bad:
                with pytest.raises(ValueError, match=r"update|weight"):
                    gathered.add(update)
            else:
                gathered.add(update)
        return gathered.close(round=1, silos=9).tobytes(), strategy.state()

    good = [Update(v, weight=2.0, loss=1.0, extras={"delta_c": v}) for v in draws(1, 8)]
    sound = {"vector": good[0].vector, "weight": 1.0, "loss": 1.0, "extras": good[0].extras}
    bad = Update(**{**sound, **wrong})
    with_bad, without = close(*good[:4], bad, *good[4:]), close(*good)
    assert with_bad[0] == without[0]
    assert same(with_bad[1], without[1])


@pytest.mark.parametrize("loss", [None, -0.1, float("nan"), float("inf")])
def test_qfedavg_refuses_an_update_without_a_proper_loss(run_round, loss):
    with pytest.raises(ValueError, match="needs a loss >= 0"):
        run_round(load_strategy("qfedavg", {}), [[1.0]], losses=[loss])


def test_scaffold_refuses_an_update_without_its_change():
    gathered = load_strategy("scaffold", {}).open(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="'delta_c'"):
        gathered.add(Update(np.zeros(2, np.float32), weight=1))
    spoilt = {"delta_c": np.array([0, np.nan], np.float32)}
    with pytest.raises(ValueError, match="delta_c has values"):
        gathered.add(Update(np.zeros(2, np.float32), weight=1, extras=spoilt))


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedmedian", "scaffold"])
def test_a_sum_out_of_range_skips_the_round_and_keeps_the_state(run_round, name):
    strategy = load_strategy(name, {"server_lr": 1e38} if name == "fedadam" else {})
    run_round(strategy, [[0.0]])
    before = strategy.state()
    with pytest.raises(RoundSkipped, match="out of range"):
        run_round(strategy, [[3e38]], start=[3e38])
    assert same(strategy.state(), before)


def test_the_federation_has_at_least_one_silo_and_rounds_count_from_one():
    gathered = load_strategy("fedavg", {}).open(np.zeros(1, np.float32))
    for wrong in ({"round": 0, "silos": 3}, {"round": 1, "silos": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            gathered.close(**wrong)
